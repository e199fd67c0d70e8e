"""Times pycocotools on the files of `coco_eval -- DIR`: python coco_eval.py DIR. Needs `pip install pycocotools`."""

import json
import resource
import sys
import time

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

folder = sys.argv[1]
truth = COCO(f"{folder}/truth.json")
results = {kind: json.load(open(f"{folder}/{kind}.json")) for kind in ("bbox", "segm")}
begin = time.time()
for kind, entries in results.items():
    evaluation = COCOeval(truth, truth.loadRes(entries), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    print(kind, f"{time.time() - begin:.1f} s")
print(f"{time.time() - begin:.1f} s in all, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
