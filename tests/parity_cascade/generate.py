"""Writes the fixtures of tests/parity_cascade: Cascade Mask R-CNN as mmdetection 3.3.0 computes it.

    pip install torch==2.8.0 torchvision==0.23.0 timm numpy safetensors pycocotools scipy shapely terminaltables tqdm matplotlib \\
        opencv-python-headless addict pyyaml rich termcolor yapf regex
    pip install --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0
    python generate.py

Every case is mmdetection's own `CascadeRCNN` with small layers. torchvision's `roi_align(aligned=True)` and `nms` replace the compiled
operations of mmcv. Weights and images follow from their names by the formula of tests/parity_baselines (`values`), so that the files
hold results only. All samplers ask for more boxes than there are, so that nothing is drawn at random.

A case is run in float32 and in float64. Both must agree on every discrete decision (proposals, samples, labels, detections) and closely
on all numbers: then no value lies so near to a threshold or a kink that another summation order changes the outcome.
"""

import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import safetensors.numpy
import torch
import torchvision

HERE = pathlib.Path(__file__).parent


# -- mmcv's compiled operations ---------------------------------------------------------------------------------------------------------


class Compiled(types.ModuleType):
    """Stands for the extension module of mmcv: `nms` works, everything else fails when it is called."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"mmcv._ext.{name}")

        return missing

    @staticmethod
    def nms(boxes, scores, iou_threshold, offset):
        assert offset == 0
        return torchvision.ops.nms(boxes, scores, iou_threshold)


sys.modules["mmcv._ext"] = Compiled("mmcv._ext")

import mmdet.structures.mask.structures as mask_structures  # noqa: E402
from mmdet.models.backbones import ResNet  # noqa: E402
from mmdet.models.backbones.resnet import Bottleneck  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.bbox import bbox_overlaps  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402


def roi_align(features, rois, output, scale=1.0, ratio=0, mode="avg", aligned=True):
    """`mmcv.ops.roi_align`, which the mask targets call."""
    assert mode == "avg"
    return torchvision.ops.roi_align(features, rois, output, scale, ratio, aligned)


mask_structures.roi_align = roi_align
register_all_modules()

# The formula of the weights and images.
SPEC = importlib.util.spec_from_file_location("formula", HERE.parent / "parity_baselines/generate.py")
formula = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(formula)


@MODELS.register_module()
class SmallResNet(ResNet):
    """One bottleneck block a stage."""

    arch_settings = {50: (Bottleneck, (1, 1, 1, 1))}


# -- configuration ----------------------------------------------------------------------------------------------------------------------

CLASSES = 4
CHANNELS = 16
SIZES = [[160, 192], [128, 160]]
ORIGINALS = [[80, 96], [64, 80]]
STAGES = [
    {"iou": 0.5, "stds": [0.1, 0.1, 0.2, 0.2]},
    {"iou": 0.6, "stds": [0.05, 0.05, 0.1, 0.1]},
    {"iou": 0.7, "stds": [0.033, 0.033, 0.067, 0.067]},
]
STRIDES = [4, 8, 16, 32]

#: Factors of weights that the formula makes so large that boxes collapse; powers of two, exact in float32.
SCALES = {"rpn_head.rpn_reg.weight": 0.125} | {f"roi_head.bbox_head.{stage}.fc_reg.weight": 0.5 for stage in range(3)}


def shared_2fc(stage):
    """Two linear layers, class-agnostic boxes, smooth L1 on the deltas: configs/_base_/models/cascade-mask-rcnn_r50_fpn.py."""
    return dict(
        type="Shared2FCBBoxHead",
        in_channels=CHANNELS,
        fc_out_channels=32,
        roi_feat_size=7,
        num_classes=CLASSES,
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stage["stds"]),
        reg_class_agnostic=True,
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
    )


def conv_fc(stage):
    """Four convolutions with batch norm and one linear layer, a box a class, GIoU loss on decoded boxes: configs/convnext/
    cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py. SyncBN on one process is batch norm."""
    return dict(
        type="ConvFCBBoxHead",
        num_shared_convs=4,
        num_shared_fcs=1,
        in_channels=CHANNELS,
        conv_out_channels=8,
        fc_out_channels=32,
        roi_feat_size=7,
        num_classes=CLASSES,
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stage["stds"]),
        reg_class_agnostic=False,
        reg_decoded_bbox=True,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
    )


def extractor(size):
    return dict(
        type="SingleRoIExtractor",
        roi_layer=dict(type="RoIAlign", output_size=size, sampling_ratio=0, use_torchvision=True),
        out_channels=CHANNELS,
        featmap_strides=STRIDES,
    )


def sampler(positive, add_gt):
    return dict(type="RandomSampler", num=100000, pos_fraction=positive, neg_pos_ub=-1, add_gt_as_proposals=add_gt)


def assigner(positive, negative, minimum, low_quality):
    return dict(
        type="MaxIoUAssigner",
        pos_iou_thr=positive,
        neg_iou_thr=negative,
        min_pos_iou=minimum,
        match_low_quality=low_quality,
        ignore_iof_thr=-1,
    )


def proposals(nms_pre, count):
    return dict(nms_pre=nms_pre, max_per_img=count, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)


def stage_training(iou):
    return dict(assigner=assigner(iou, iou, iou, False), sampler=sampler(0.25, True), mask_size=28, pos_weight=-1, debug=False)


def configuration(case):
    return dict(
        type="CascadeRCNN",
        data_preprocessor=dict(type="DetDataPreprocessor", pad_mask=True, pad_size_divisor=32),
        backbone=dict(
            type="SmallResNet",
            depth=50,
            base_channels=8,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            frozen_stages=-1,
            norm_cfg=dict(type="BN", requires_grad=True),
            norm_eval=False,
            style="pytorch",
        ),
        neck=dict(type="FPN", in_channels=[32, 64, 128, 256], out_channels=CHANNELS, num_outs=5),
        rpn_head=dict(
            type="RPNHead",
            in_channels=CHANNELS,
            feat_channels=CHANNELS,
            anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
            bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0),
        ),
        roi_head=dict(
            type="CascadeRoIHead",
            num_stages=3,
            stage_loss_weights=[1, 0.5, 0.25],
            bbox_roi_extractor=extractor(7),
            bbox_head=[case["box_head"](stage) for stage in STAGES],
            mask_roi_extractor=extractor(14),
            mask_head=dict(
                type="FCNMaskHead",
                num_convs=2,
                in_channels=CHANNELS,
                conv_out_channels=CHANNELS,
                num_classes=CLASSES,
                loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=assigner(0.7, 0.3, 0.3, True),
                sampler=sampler(0.5, False),
                allowed_border=0,
                pos_weight=-1,
                debug=False,
            ),
            rpn_proposal=proposals(60, case["proposals"]),
            rcnn=[stage_training(stage["iou"]) for stage in STAGES],
        ),
        test_cfg=dict(
            rpn=proposals(40, 24),
            rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=8, mask_thr_binary=0.5),
        ),
    )


# -- data -------------------------------------------------------------------------------------------------------------------------------


def batch(case, dtype):
    """Normalised images `[2, 3, height, width]`; the second is padded with 0 to the size of the first."""
    images = torch.zeros(len(SIZES), 3, *SIZES[0], dtype=dtype)
    for index, (height, width) in enumerate(SIZES):
        image = formula.values(case["images"][index], [3, height, width])
        images[index, :, :height, :width] = torch.from_numpy(image).to(dtype)
    return images


def samples(truth, dtype):
    result = []
    for index, (size, original) in enumerate(zip(SIZES, ORIGINALS)):
        sample = DetDataSample()
        sample.set_metainfo(
            dict(
                img_id=index,
                img_shape=tuple(size),
                ori_shape=tuple(original),
                scale_factor=(size[1] / original[1], size[0] / original[0]),
                pad_shape=tuple(-(-side // 32) * 32 for side in size),
                batch_input_shape=tuple(SIZES[0]),
            )
        )
        boxes, labels, bitmaps = truth[index]
        instances = InstanceData()
        instances.bboxes = torch.tensor(boxes, dtype=dtype).reshape(-1, 4)
        instances.labels = torch.tensor(labels, dtype=torch.long)
        # The preprocessor pads masks to the size of the batch.
        instances.masks = BitmapMasks(bitmaps, *size).pad(tuple(SIZES[0]), pad_val=0)
        sample.gt_instances = instances
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4, dtype=dtype), labels=torch.zeros(0, dtype=torch.long))
        result.append(sample)
    return result


def ellipse(box, size):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = ((columns - x) / (box[2] - box[0]) * 2) ** 2 + ((rows - y) / (box[3] - box[1]) * 2) ** 2 <= 1
    return inside.astype(np.uint8)


def choose_truth(model, images, counts):
    """Objects near some of the proposals, so that every stage has positives among the refined boxes. Changes the running statistics of
    `model`."""
    nothing = [([], [], np.zeros((0, *size), np.uint8)) for size in SIZES]
    with torch.no_grad():
        found = model.train().rpn_head.predict(model.extract_feat(images), samples(nothing, images.dtype))
    truth = []
    for index, (result, size) in enumerate(zip(found, SIZES)):
        boxes = []
        candidates = result.bboxes.tolist()
        shifts = formula.values(f"truth{index}", [len(candidates), 4], 0.06)
        for candidate, shift in zip(candidates, shifts.tolist()):
            width, height = candidate[2] - candidate[0], candidate[3] - candidate[1]
            box = [round(side + s * extent) for side, s, extent in zip(candidate, shift, [width, height] * 2)]
            box = [max(box[0], 0), max(box[1], 0), min(box[2], size[1]), min(box[3], size[0])]
            if min(box[2] - box[0], box[3] - box[1]) < 16 or len(boxes) == counts[index]:
                continue
            if boxes and bbox_overlaps(torch.tensor([box]).float(), torch.tensor(boxes).float()).max() > 0.4:
                continue
            boxes.append(box)
        assert len(boxes) == counts[index], "too few objects"
        labels = [(3 * number + index) % CLASSES for number in range(len(boxes))]
        bitmaps = np.stack([ellipse(box, size) for box in boxes]) if boxes else np.zeros((0, *size), np.uint8)
        truth.append((boxes, labels, bitmaps))
    return truth


# -- running a case ---------------------------------------------------------------------------------------------------------------------


def build(case, dtype):
    model = MODELS.build(ConfigDict(configuration(case)))
    if case["share_mask_head"]:
        # mmdetection builds a mask head for every stage even from a single dict; its loss and prediction also accept shared ones.
        model.roi_head.mask_head = torch.nn.ModuleList([model.roi_head.mask_head[0]] * 3)
    shapes = formula.fill(model)
    if case["share_mask_head"]:
        # The formula names the weights by the first of the three keys.
        head = model.roi_head.mask_head[0]
        head.load_state_dict(
            {
                key: torch.from_numpy(formula.parameter(f"roi_head.mask_head.0.{key}", list(value.shape)))
                for key, value in head.state_dict().items()
            }
        )
    for key, value in model.named_parameters():
        value.data *= SCALES.get(key, 1.0)
    return model.to(dtype), shapes


def record(model, tensors):
    """Stores the inputs and outputs of every stage of the heads."""
    head = model.roi_head
    bbox_loss, bbox_forward = head.bbox_loss, head._bbox_forward

    def loss(stage, x, sampling_results):
        result = bbox_loss(stage, x, sampling_results)
        tensors[f"train{stage}.rois"] = result["rois"]
        tensors[f"train{stage}.labels"] = result["bbox_targets"][0]
        tensors[f"train{stage}.logits"] = result["cls_score"]
        tensors[f"train{stage}.deltas"] = result["bbox_pred"]
        for image, sampled in enumerate(sampling_results):
            tensors[f"train{stage}.objects{image}"] = sampled.pos_assigned_gt_inds
        return result

    def forward(stage, x, rois):
        result = bbox_forward(stage, x, rois)
        if not model.training:
            tensors[f"test{stage}.rois"] = rois
            tensors[f"test{stage}.logits"] = result["cls_score"]
            tensors[f"test{stage}.deltas"] = result["bbox_pred"]
        return result

    head.bbox_loss, head._bbox_forward = loss, forward
    for stage in range(2):
        refine = head.bbox_head[stage].refine_bboxes

        def refined(*args, stage=stage, refine=refine):
            results = refine(*args)
            for image, result in enumerate(results):
                tensors[f"train{stage}.refined{image}"] = result.bboxes.clone()
            return results

        head.bbox_head[stage].refine_bboxes = refined
    for name, part in (("train", head.loss), ("test", head.predict)):

        def proposed(x, results, *args, name=name, part=part, **kwargs):
            for image, result in enumerate(results):
                tensors[f"{name}.proposals{image}"] = result.bboxes.clone()
            return part(x, results, *args, **kwargs)

        setattr(head, "loss" if name == "train" else "predict", proposed)
    mask_head = head.mask_head[-1]
    predict_mask = mask_head.predict_by_feat

    def masks(mask_preds, results_list, **kwargs):
        for image, (probabilities, result) in enumerate(zip(mask_preds, results_list)):
            tensors[f"test.mask{image}"] = probabilities[range(len(result)), result.labels]
            tensors[f"test.mask_rois{image}"] = result.bboxes.clone()
        for result in results_list:
            # The pasting works in float32 only.
            result.bboxes = result.bboxes.float()
        return predict_mask(mask_preds=mask_preds, results_list=results_list, **kwargs)

    mask_head.predict_by_feat = masks


def flatten(losses):
    """Losses by name; a loss of the region proposal network is a list with one term for each level."""
    return {name: [float(term.detach()) for term in value] if isinstance(value, list) else float(value.detach()) for name, value in losses.items()}


#: Gradients of parameters with more values than this are left out.
LARGEST_GRADIENT = 600


def run(case, truth, dtype):
    model, shapes = build(case, dtype)
    images = batch(case, dtype)
    tensors = {}
    record(model, tensors)
    with torch.no_grad():
        results = model.eval().predict(images, samples(truth, dtype), rescale=True)
    for image, sample in enumerate(results):
        found = sample.pred_instances
        tensors[f"test.boxes{image}"], tensors[f"test.scores{image}"] = found.bboxes, found.scores
        tensors[f"test.labels{image}"], tensors[f"test.bits{image}"] = found.labels, found.masks
    losses = model.train().loss(images, samples(truth, dtype))
    total = sum(sum(value) if isinstance(value, list) else value for key, value in losses.items() if "loss" in key)
    total.backward()
    losses = flatten(losses)
    losses["loss"] = float(total.detach())
    for key, value in model.named_parameters():
        if value.numel() <= LARGEST_GRADIENT and (key.startswith(("roi_head.", "rpn_head.")) or key == "neck.fpn_convs.0.conv.bias"):
            tensors[f"g.{key}"] = value.grad
    for key, value in model.state_dict().items():
        if "running" in key and key.startswith("roi_head."):
            tensors[f"after.{key}"] = value
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    return tensors, losses, shapes


def agree(name, single, double):
    """How far float32 is from float64, relative to the largest value; discrete values must be equal."""
    assert single.keys() == double.keys()
    worst = ("", 0.0)
    for key, value in single.items():
        other = double[key]
        assert value.shape == other.shape, f"{name}: {key} is {tuple(value.shape)} in float32 and {tuple(other.shape)} in float64"
        if value.is_floating_point():
            scale = max(float(other.abs().max()), 1e-7) if other.numel() else 1.0
            error = float((value.double() - other).abs().max()) / scale if other.numel() else 0.0
            worst = max(worst, (key, error), key=lambda pair: pair[1])
        elif "bits" in key:
            assert (value != other).double().mean() < 1e-4, f"{name}: {key}"
        else:
            assert torch.equal(value, other), f"{name}: {key} differs between float32 and float64"
    assert worst[1] < 2e-5, f"{name}: {worst}"
    return {"tensor": worst[0], "error": worst[1]}


def images(name, seed):
    return [f"{name}.{seed}.image{index}" for index in range(len(SIZES))]


#: An image follows from its name. ReLU, NMS and L1 have kinks; the names were chosen so that no value comes close to one.
CASES = {
    "shared_2fc": dict(box_head=shared_2fc, share_mask_head=False, objects=[3, 2], proposals=40, images=images("shared_2fc", 2)),
    # Fewer RoIs, since every cell of the four convolutions has a ReLU.
    "conv_fc": dict(box_head=conv_fc, share_mask_head=False, objects=[3, 2], proposals=16, images=images("conv_fc", 9)),
    # The second image has no object, so that its RoIs are all background.
    "shared_mask": dict(box_head=shared_2fc, share_mask_head=True, objects=[2, 0], proposals=40, images=images("shared_mask", 3)),
}


def save(name, tensors, manifest):
    arrays = {}
    for key, value in tensors.items():
        array = value.numpy()
        if array.dtype == bool:
            array = np.packbits(array.reshape(-1))
        elif array.dtype == np.int64:
            array = array.astype(np.int32)
        arrays[key] = np.ascontiguousarray(array)
    folder = HERE / "fixtures"
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(arrays, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{name}: {len(arrays)} tensors, {sum(array.nbytes for array in arrays.values()) / 1e3:.0f} kB")


def main():
    for name, case in CASES.items():
        model, _ = build(case, torch.float32)
        truth = choose_truth(model, batch(case, torch.float32), case["objects"])
        tensors, losses, shapes = run(case, truth, torch.float32)
        double, _, _ = run(case, truth, torch.float64)
        precision = agree(name, tensors, double)
        for stage in range(3):
            labels = tensors[f"train{stage}.labels"]
            print(f"{name} stage {stage}: {int((labels < CLASSES).sum())} of {len(labels)} RoIs are objects")
        for image, (boxes, labels, bitmaps) in enumerate(truth):
            tensors[f"truth.boxes{image}"] = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            tensors[f"truth.labels{image}"] = torch.tensor(labels, dtype=torch.long)
            tensors[f"truth.bits{image}"] = torch.from_numpy(bitmaps).bool()
        manifest = {
            "name": name,
            "what": "test*: prediction with the initial weights in evaluation mode; train*: one training step (batch statistics in every "
            "batch norm) on the same images; g.*: gradients of the total loss; after.*: running statistics after the step. test<s> and "
            "train<s> are stages. bits are masks, eight pixels a byte, the first in the highest bit, row by row. rois are image, then "
            "box in pixels of the network's input; test.boxes are in pixels of the original image, test.mask_rois in the input's.",
            "config": configuration(case),
            "share_mask_head": case["share_mask_head"],
            "images": case["images"],
            "sizes": SIZES,
            "originals": ORIGINALS,
            "keys": shapes,
            "scales": SCALES,
            "losses": losses,
            "float32_vs_float64": precision,
            "versions": {"mmdet": "3.3.0", "mmengine": "0.10.7", "mmcv-lite": "2.1.0", "torch": torch.__version__, "torchvision": torchvision.__version__},
        }
        save(name, tensors, manifest)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
