//! COCO's mask arithmetic and evaluation against pycocotools: masks bit for bit, precision and recall arrays by their hashes, statistics.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tests::{fixtures_root, present, shared_root};
use vision_datasets::coco::{EvalConfig, EvalReport, IouType, STAT_NAMES, box_iou, evaluate, read_results, write_results};
use vision_datasets::ground_truth::GroundTruth;
use vmamba_types::{BitMask, Rle};

/// Means of up to a hundred thousand numbers, which numpy sums in another order.
const STAT_TOLERANCE: f64 = 1e-12;

/// Overlaps are ratios of whole numbers or of products of a few numbers.
const IOU_TOLERANCE: f64 = 1e-15;

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Python writes NaN where JSON has no word for it.
    serde_json::from_str(&text.replace(": NaN", ": null")).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(number).collect()
}

fn size(value: &Value) -> [usize; 2] {
    [value["h"].as_u64().unwrap() as usize, value["w"].as_u64().unwrap() as usize]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn compressed(value: &Value, size: [usize; 2]) -> Rle {
    Rle::from_compressed(text(value), size).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn flags(value: &Value) -> Vec<bool> {
    list(value).iter().map(|flag| flag.as_bool().unwrap_or_else(|| number(flag) != 0.0)).collect()
}

/// Rows of 0 and 1, row-major.
fn bits(value: &Value, [height, width]: [usize; 2]) -> BitMask {
    BitMask::new(height, width, text(value).bytes().map(|byte| byte == b'1').collect())
}

fn polygons(value: &Value) -> Vec<Vec<f64>> {
    list(value).iter().map(numbers).collect()
}

/// A number as Python's `float.hex` writes it.
fn hex(value: &Value) -> f64 {
    let Some(text) = value.as_str() else { return number(value) };
    let (sign, text) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let (mantissa, exponent) = text.trim_start_matches("0x").split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap() as f64;
    let exponent: i32 = exponent.parse::<i32>().unwrap() - 4 * fraction.len() as i32;
    sign * digits * 2.0_f64.powi(exponent)
}

fn same_overlaps(what: &str, actual: &[f64], expected: &Value, read: fn(&Value) -> f64) {
    let expected: Vec<f64> = list(expected).iter().flat_map(|row| list(row).iter().map(read).collect::<Vec<_>>()).collect();
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (a, e) in actual.iter().zip(&expected) {
        assert!((a - e).abs() <= IOU_TOLERANCE, "{what}: {a}, reference {e}");
    }
}

#[test]
fn mask_operations_are_pycocotools() {
    let document = read(&fixtures_root().join("rle/cases.json"));
    let mut compared = 0;
    for case in list(&document["encode"]) {
        let size = size(case);
        let bits = bits(&case["mask_rowmajor"], size);
        let rle = Rle::from_bits(&bits);
        let counts: Vec<f64> = rle.counts.iter().map(|count| f64::from(*count)).collect();
        assert_eq!(counts, numbers(&case["counts"]));
        assert_eq!(rle.to_compressed(), text(&case["counts_string"]));
        assert_eq!(compressed(&case["counts_string"], size), rle);
        assert_eq!(rle.to_bits(), bits);
        assert_eq!((rle.area() as f64, rle.bbox().to_vec()), (number(&case["area"]), numbers(&case["bbox"])));
        compared += 1;
    }
    for case in list(&document["polygons"]) {
        let size = size(case);
        let parts = polygons(&case["polygons"]);
        for (part, expected) in parts.iter().zip(list(&case["part_counts"])) {
            assert_eq!(Rle::from_polygons(std::slice::from_ref(part), size).unwrap().to_compressed(), text(expected));
        }
        let merged = Rle::from_polygons(&parts, size).unwrap();
        assert_eq!(merged.to_compressed(), text(&case["merged_counts"]));
        assert_eq!(merged.to_bits(), bits(&case["mask_rowmajor"], size));
        assert_eq!((merged.area() as f64, merged.bbox().to_vec()), (number(&case["area"]), numbers(&case["bbox"])));
        compared += 1;
    }
    let case = &document["iou"];
    let masks = |name: &str| list(&case[name]).iter().map(|value| compressed(value, size(case))).collect::<Vec<_>>();
    same_overlaps("iou", &Rle::iou(&masks("dt"), &masks("gt"), &flags(&case["iscrowd"])), &case["result"], number);
    let case = &document["box_iou"];
    let boxes = |name: &str| list(&case[name]).iter().map(|value| <[f64; 4]>::try_from(numbers(value)).unwrap()).collect::<Vec<_>>();
    same_overlaps("box_iou", &box_iou(&boxes("dt"), &boxes("gt"), &flags(&case["iscrowd"])), &case["result"], number);
    let case = &document["merge"];
    let inputs: Vec<Rle> = list(&case["inputs"]).iter().map(|value| compressed(value, size(case))).collect();
    for (name, intersect) in [("union", false), ("intersection", true), ("intersect", true)] {
        if let Some(expected) = case[name].as_str() {
            assert_eq!(Rle::merge(&inputs, intersect).unwrap().to_compressed(), expected, "{name}");
            compared += 1;
        }
    }
    println!("rle: {compared} masks, all equal");
}

#[test]
fn adversarial_masks_are_pycocotools() {
    let path = fixtures_root().join("coco_golden/mask_golden.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut compared = 0;
    for (number_of_line, line) in lines.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let place = format!("line {}", number_of_line + 1);
        match text(&case["k"]) {
            "poly" => {
                let rle = Rle::from_polygons(&[numbers(&case["p"])], size(&case)).unwrap();
                assert_eq!(rle.to_compressed(), text(&case["e"]), "{place}");
            }
            "multi" => {
                let size = size(&case);
                let parts: Vec<Rle> = polygons(&case["ps"]).into_iter().map(|p| Rle::from_polygons(&[p], size).unwrap()).collect();
                let union = Rle::merge(&parts, false).unwrap();
                assert_eq!(union.to_compressed(), text(&case["u"]), "{place}: union");
                assert_eq!(Rle::merge(&parts, true).unwrap().to_compressed(), text(&case["i"]), "{place}: intersection");
                assert_eq!((union.area() as f64, union.bbox().to_vec()), (number(&case["area"]), numbers(&case["bb"])), "{place}");
            }
            "bbox" => {
                let bbox = <[f64; 4]>::try_from(numbers(&case["b"])).unwrap();
                assert_eq!(Rle::from_box(bbox, size(&case)).unwrap().to_compressed(), text(&case["e"]), "{place}");
            }
            "biou" => {
                let boxes = |name: &str| list(&case[name]).iter().map(|v| <[f64; 4]>::try_from(numbers(v)).unwrap()).collect::<Vec<_>>();
                same_overlaps(&place, &box_iou(&boxes("d"), &boxes("g"), &flags(&case["cr"])), &case["iou"], hex);
            }
            "enc" => {
                let size = size(&case);
                // Down the columns here.
                let upright = |m: &Value| {
                    let ([height, width], columns) = (size, text(m).as_bytes());
                    BitMask::new(height, width, (0..height * width).map(|at| columns[at % width * height + at / width] == b'1').collect())
                };
                let masks: Vec<Rle> = list(&case["m"]).iter().map(|m| Rle::from_bits(&upright(m))).collect();
                for (index, (mask, expected)) in masks.iter().zip(list(&case["s"])).enumerate() {
                    assert_eq!(mask.to_compressed(), text(expected), "{place}, mask {index}");
                    assert_eq!(mask.area() as f64, number(&case["area"][index]), "{place}, mask {index}");
                    assert_eq!(mask.bbox().to_vec(), numbers(&case["bb"][index]), "{place}, mask {index}");
                }
                same_overlaps(&place, &Rle::iou(&masks, &masks, &flags(&case["cr"])), &case["iou"], hex);
            }
            other => panic!("{place}: unknown kind {other}"),
        }
        compared += 1;
    }
    assert!(compared > 0);
    println!("coco_golden/mask_golden: {compared} operations, all equal");
}

/// Compares the twelve statistics and returns the largest difference.
fn worst(name: &str, report: &EvalReport, expected: &Value) -> f64 {
    let mut worst = 0.0_f64;
    for ((stat, actual), expected) in STAT_NAMES.iter().zip(report.stats).zip(list(expected)) {
        let difference = (actual - number(expected)).abs();
        assert!(difference <= STAT_TOLERANCE, "{name}: {stat} is {actual}, reference {expected}");
        worst = worst.max(difference);
    }
    worst
}

fn sha256(values: &[f64]) -> String {
    let mut hash = Sha256::new();
    values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn adversarial_sets_have_pycocotools_arrays_and_statistics() {
    let folder = fixtures_root().join("coco_golden");
    let expected = read(&folder.join("expected.json"));
    let mut total = (0, 0.0_f64);
    for case in list(&read(&folder.join("cases.json"))) {
        let name = text(&case["name"]);
        let options = &case["opts"];
        let kind = if text(&case["iou"]) == "segm" { IouType::Segm } else { IouType::Bbox };
        let mut config = EvalConfig::new(kind);
        for (option, value) in options.as_object().unwrap() {
            let ids = || Some(list(value).iter().map(|id| id.as_i64().unwrap()).collect::<Vec<i64>>());
            match option.as_str() {
                "max_dets" => config.max_dets = numbers(value).iter().map(|n| *n as usize).collect::<Vec<_>>().try_into().unwrap(),
                "use_cats" => config.use_categories = value.as_bool().unwrap(),
                "iou_thrs" => config.iou_thresholds = numbers(value),
                "rec_thrs" => config.recall_thresholds = numbers(value),
                "img_ids" => config.image_ids = ids(),
                "cat_ids" => config.category_ids = ids(),
                "area_ranges" => {
                    let ranges: Vec<[f64; 2]> = list(value).iter().map(|range| numbers(range).try_into().unwrap()).collect();
                    config.areas = ranges.try_into().unwrap();
                }
                other => panic!("{name}: unknown option {other}"),
            }
        }
        let truth = GroundTruth::read(&folder.join(text(&case["gt"]))).unwrap_or_else(|error| panic!("{error}"));
        let results = read_results(&folder.join(text(&case["dt"])), &truth).unwrap_or_else(|error| panic!("{error}"));
        let report = evaluate(&truth, &results, &config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = &expected["cases"][name];
        total = (total.0 + 1, total.1.max(worst(name, &report, &expected["stats"])));
        for (array, values) in [("precision", report.precision()), ("recall", report.recall()), ("scores", report.scores())] {
            assert_eq!(values.len() as f64, number(&expected[array]["n"]), "{name}: {array}");
            assert_eq!(sha256(values), text(&expected[array]["sha256"]), "{name}: {array}");
        }
    }
    println!("coco_golden: {} evaluations, arrays equal, worst statistic {:.1e}", total.0, total.1);
}

#[test]
fn statistics_with_pycocotools_and_mmdetections_limits_are_the_published_ones() {
    let folder = fixtures_root().join("coco_eval");
    let expected = read(&folder.join("expected.json"));
    let truth = GroundTruth::read(&folder.join("gt.json")).unwrap();
    let results = read_results(&folder.join("dt.json"), &truth).unwrap();
    for kind in [IouType::Bbox, IouType::Segm] {
        for (name, config) in
            [(kind.name().to_owned(), EvalConfig::new(kind)), (format!("{}_mmdet_maxdets", kind.name()), EvalConfig::mmdetection(kind))]
        {
            let stats = &expected[&name]["stats"];
            let stats = if stats.is_array() { stats } else { &expected[&name] };
            let report = evaluate(&truth, &results, &config).unwrap();
            println!("coco_eval/{name}: worst {:.1e}", worst(&name, &report, stats));
            same_details(&name, &report, &expected[&name]);
        }
    }
    // mmdetection prints three decimals.
    for (prefix, kind) in [("coco/bbox_mAP", IouType::Bbox), ("coco/segm_mAP", IouType::Segm)] {
        let stats = evaluate(&truth, &results, &EvalConfig::mmdetection(kind)).unwrap().stats;
        for (ending, stat) in ["", "_50", "_75", "_s", "_m", "_l"].iter().zip(stats) {
            let expected = number(&expected["mmdet_CocoMetric"][format!("{prefix}{ending}")]);
            assert!((stat - expected).abs() <= 0.0005 + STAT_TOLERANCE, "{prefix}{ending}: {stat}, mmdetection {expected}");
        }
    }
}

/// AP of every category, recall of every IoU and category, and one precision curve.
fn same_details(name: &str, report: &EvalReport, expected: &Value) {
    let close = |what: String, actual: f64, expected: f64| {
        assert!((actual - expected).abs() <= STAT_TOLERANCE, "{name}: {what} is {actual}, reference {expected}");
    };
    let ids = report.category_ids();
    for (place, id) in ids.iter().enumerate() {
        // null where nothing is to be found.
        let reference = expected["per_category_AP_all_maxdet_last"][id.to_string()].as_f64().unwrap_or(-1.0);
        close(format!("AP of category {id}"), report.of_category(place)[0], reference);
    }
    // Recall is IoU x category x area x limit; the reference has all areas and the last limit.
    let recalls = list(&expected["recall_per_cat"]);
    let (areas, limits) = (4, 3);
    assert_eq!(report.recall().len(), recalls.len() * ids.len() * areas * limits);
    for (t, row) in recalls.iter().enumerate() {
        for (k, reference) in numbers(row).into_iter().enumerate() {
            close(format!("recall {t}, {k}"), report.recall()[((t * ids.len() + k) * areas) * limits + limits - 1], reference);
        }
    }
    let curve = numbers(&expected["precision_iou50_cat0"]);
    for (r, reference) in curve.iter().enumerate() {
        let actual = report.precision()[((r * ids.len()) * areas) * limits + limits - 1];
        close(format!("precision at recall {r}"), actual, *reference);
    }
    let points = report.curve(0.5, Some(0)).points;
    assert_eq!(points.len(), curve.len());
    assert!(points.iter().zip(&curve).all(|((_, actual), reference)| (actual - reference).abs() <= STAT_TOLERANCE));
}

/// The folder of real annotations with published scores.
fn real() -> Option<PathBuf> {
    let root = shared_root();
    if root.is_none() {
        println!("not run: the annotations lie in $VMAMBA_SHARED/data, which is not set");
    }
    root.map(|root| root.join("data/coco_eval_fixture"))
}

#[test]
fn real_annotations_give_the_published_scores() {
    let Some(folder) = real() else { return };
    let expected = read(&folder.join("reference_metrics.json"));
    let truth = GroundTruth::read(&folder.join("instances_val2014_100.json")).unwrap_or_else(|error| panic!("{error}"));
    for kind in [IouType::Bbox, IouType::Segm] {
        let file = folder.join(format!("instances_val2014_fake{}100_results.json", kind.name()));
        let results = read_results(&file, &truth).unwrap_or_else(|error| panic!("{error}"));
        let report = evaluate(&truth, &results, &EvalConfig::new(kind)).unwrap();
        let expected = &expected[kind.name()];
        for (stat, actual) in STAT_NAMES.iter().zip(report.stats) {
            assert!((actual - number(&expected[*stat])).abs() <= STAT_TOLERANCE, "{}: {stat} is {actual}, {expected}", kind.name());
        }
        for (place, id) in report.category_ids().into_iter().enumerate() {
            let (actual, expected) = (report.of_category(place)[0], number(&expected["per_category"][id.to_string()]));
            assert!((actual - expected).abs() <= STAT_TOLERANCE, "{}: category {id}: {actual}, reference {expected}", kind.name());
        }
        println!("coco_eval_fixture {}: {}", kind.name(), report.stats.map(|stat| format!("{stat:.3}")).join(" "));
    }
}

#[test]
fn written_results_come_back_with_the_same_scores() {
    if !present("coco_eval/gt.json") {
        return;
    }
    let folder = fixtures_root().join("coco_eval");
    let truth = GroundTruth::read(&folder.join("gt.json")).unwrap();
    let results = read_results(&folder.join("dt.json"), &truth).unwrap();
    let out = tempfile::tempdir().unwrap();
    for kind in [IouType::Bbox, IouType::Segm] {
        let path = out.path().join("results.json");
        write_results(&path, &results, kind).unwrap();
        let back = read_results(&path, &truth).unwrap();
        let stats = |results: &[_]| evaluate(&truth, results, &EvalConfig::mmdetection(kind)).unwrap().stats;
        assert_eq!(stats(&results), stats(&back));
    }
}

#[test]
fn results_that_fit_no_ground_truth_are_refused_by_name() {
    let folder = fixtures_root().join("coco_eval");
    let truth = GroundTruth::read(&folder.join("gt.json")).unwrap();
    let (image, category) = (truth.images[0].id, truth.categories[0].id);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("results.json");
    for (entry, part) in [
        (format!(r#"{{"image_id":999999,"category_id":{category},"bbox":[1,1,2,2],"score":0.5}}"#), "result 0: image_id 999999"),
        (format!(r#"{{"image_id":{image},"category_id":888888,"bbox":[1,1,2,2],"score":0.5}}"#), "category_id 888888"),
        (format!(r#"{{"image_id":{image},"category_id":{category},"bbox":[1,1,2,2]}}"#), "`score` is missing"),
        (format!(r#"{{"image_id":{image},"category_id":{category},"score":0.5}}"#), "neither `bbox` nor `segmentation`"),
        (format!(r#"{{"image_id":{image},"category_id":{category},"score":0.5,"bbox":[1,2]}}"#), "`bbox` has 2 numbers"),
    ] {
        std::fs::write(&path, format!("[{entry}]")).unwrap();
        let error = read_results(&path, &truth).unwrap_err().to_string();
        assert!(error.contains("results.json") && error.contains(part), "{error}");
    }
    let boxes_only = format!(r#"[{{"image_id":{image},"category_id":{category},"bbox":[1,1,2,2],"score":0.5}}]"#);
    std::fs::write(&path, boxes_only).unwrap();
    let results = read_results(&path, &truth).unwrap();
    let error = evaluate(&truth, &results, &EvalConfig::new(IouType::Segm)).unwrap_err().to_string();
    assert!(error.contains("`segmentation` is missing"), "{error}");
}
