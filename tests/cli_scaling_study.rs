//! `scaling_study` and `ablation` on small images: measurements, failures, continuing after an interrupt, accuracy, wrong input.

use std::fs;
use std::path::Path;

use burn::prelude::Device;
use image::{Rgb, RgbImage};
use serde_json::Value;
use tests::tool::{Ran, executable, program, run};
use vmamba::checkpoint::{export_safetensors, state_dict_of};
use vmamba::zoo::BackboneConfig;

const STUDY: &str = program::SCALING_STUDY;
const ABLATION: &str = program::ABLATION;

fn study(out: &Path, arguments: &[&str]) -> Ran {
    let out = out.to_string_lossy();
    let fixed = ["--out", &out, "--runs", "1", "--rounds", "1", "--warmup", "1"];
    run(STUDY, &[&fixed, arguments].concat())
}

fn stored(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("study.json")).expect("a study")).expect("JSON")
}

#[test]
fn a_study_continues_and_failures_are_rows() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    let models = ["--models", "deit_tiny,resnet50", "--sides", "32,48,64,40"];
    study(&out, &[&models[..], &["--tasks", "inference"]].concat()).succeeded();
    let first = stored(&out);
    let rows = first["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    for row in rows {
        let work = &row["work"];
        if work["model"] == "deit_tiny" && work["side"] == 40 {
            let reason = row["failed"].as_str().unwrap();
            assert!(reason.contains("16 divides") && row["measured"].is_null(), "{row}");
            continue;
        }
        let measured = &row["measured"];
        assert!(measured["images_per_second"].as_f64().unwrap() > 0.0, "{row}");
        let [before, peak] = ["before_bytes", "peak_bytes"].map(|key| measured[key].as_u64().unwrap());
        // The weights, 5.7 and 25.6 million of 4 bytes, are in memory before the measurement.
        let weights = if work["model"] == "deit_tiny" { 20_000_000 } else { 100_000_000 };
        assert!(before > weights && peak >= before && before < 2 * weights, "{row}");
    }

    // Training and one row are missing; nothing else is measured again.
    let mut cut = first.clone();
    let removed = cut["rows"].as_array_mut().unwrap().remove(0);
    fs::write(out.join("study.json"), cut.to_string()).unwrap();
    let again = study(&out, &[&models[..], &["--tasks", "inference,training"]].concat());
    again.succeeded();
    let second = stored(&out);
    let rows = second["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 16);
    assert_eq!(rows[..7], first["rows"].as_array().unwrap()[1..], "existing rows stay");
    assert!(rows[7..].iter().any(|row| row["work"] == removed["work"]), "missing rows are measured");
    let peak = |purpose: &str| {
        let row =
            rows.iter().find(|row| row["work"]["purpose"] == purpose && row["work"]["model"] == "resnet50" && row["work"]["side"] == 64);
        row.unwrap()["measured"]["peak_bytes"].as_u64().unwrap()
    };
    assert!(peak("training") > peak("inference") + 100_000_000, "gradients of all weights");

    let text = fs::read_to_string(out.join("study.md")).unwrap();
    assert!(text.contains("## Growth with the number of pixels") && text.contains("16 divides"), "{text}");
    let drawn = ["flops.png", "flops.svg", "throughput_training.png", "memory_inference.svg"];
    for file in [&["study.csv", "cost.csv", "growth.csv"], &drawn[..]].concat() {
        assert!(fs::metadata(out.join(file)).is_ok_and(|file| file.len() > 0), "{file}");
    }
    assert!(!out.join("accuracy.csv").exists() && !out.join("flops_published.png").exists(), "neither model is in the paper's table");
    let tables: Value = serde_json::from_slice(&fs::read(out.join("tables.json")).unwrap()).unwrap();
    let of_resnet = tables["speed"].as_array().unwrap().iter().find(|row| row["model"] == "resnet50" && row["side"] == 64).unwrap();
    assert!((of_resnet["params, M"].as_f64().unwrap() - 25.557).abs() < 1e-3 && of_resnet["images/s"].is_number(), "{of_resnet}");
    assert_eq!(tables["growth"].as_array().unwrap().len(), 4);
}

#[test]
fn published_curves_are_drawn_at_the_published_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    study(&out, &["--models", "deit_small", "--sides", "32", "--tasks", "inference"]).succeeded();
    for name in ["flops_published", "throughput_inference_published", "pixels_inference_published", "accuracy_published"] {
        let svg = fs::read_to_string(out.join(format!("{name}.svg"))).unwrap();
        assert!(svg.contains("published") && svg.matches("<circle").count() >= 6, "{name}: {svg}");
    }
    assert!(!out.join("flops.svg").exists(), "one size makes no curve");
    assert!(!out.join("throughput_training_published.svg").exists(), "training was not requested");
}

#[cfg(unix)]
#[test]
fn a_model_that_runs_out_of_memory_is_a_row_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study").display().to_string();
    // 1.5 GB of address space is enough for the program, but not for a batch of 64 large images.
    let script = "ulimit -v 1500000 && exec \"$@\"";
    let study = executable(STUDY).display().to_string();
    let arguments = ["-c", script, "sh", &study, "--models", "deit_tiny", "--sides", "32,768", "--batches", "64", "--tasks", "inference"];
    run("/bin/sh", &[&arguments[..], &["--rounds", "1", "--out", &out]].concat()).succeeded();
    let study = stored(Path::new(&out));
    let reasons: Vec<&str> = study["rows"].as_array().unwrap().iter().filter_map(|row| row["failed"].as_str()).collect();
    assert!(matches!(reasons.as_slice(), [reason] if reason.starts_with("out of memory: memory allocation of")), "{reasons:?}");
}

/// The random head has the same accuracy in `test_cls`.
#[test]
fn accuracy_is_that_of_test_cls_and_unreadable_images_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (data, weights) = (folder.path().join("data"), folder.path().join("deit.safetensors"));
    for (class, colour) in [("a", [250, 20, 20]), ("b", [20, 250, 20]), ("c", [20, 20, 250])] {
        let place = data.join("val").join(class);
        fs::create_dir_all(&place).unwrap();
        for number in 0..4_u8 {
            let picture =
                RgbImage::from_fn(50, 40, |x, y| Rgb([colour[0], colour[1], (colour[2] + x as u8).wrapping_mul(1 + number) ^ y as u8]));
            picture.save(place.join(format!("{number}.png"))).unwrap();
        }
    }
    fs::write(data.join("val/a/broken.jpg"), "no picture").unwrap();
    let device = Device::flex();
    device.seed(4);
    let classifier = BackboneConfig::named("deit_tiny").unwrap().try_init_classifier(3, &device).unwrap();
    export_safetensors(&weights, &state_dict_of(&classifier, &vmamba::zoo::key)).unwrap();

    let (out, data, checkpoint) = (folder.path().join("study"), data.display().to_string(), format!("deit_tiny={}", weights.display()));
    let plan = ["--models", "deit_tiny", "--tasks", "inference", "--sides", "32,40", "--data", &data, "--checkpoint", &checkpoint];
    let ran = study(&out, &plan);
    ran.succeeded();
    assert!(ran.stderr.contains("skipped") && ran.stderr.contains("broken.jpg"), "{}", ran.stderr);
    let accuracies = stored(&out)["accuracies"].clone();
    assert_eq!(accuracies.as_array().unwrap().len(), 2);
    assert_eq!((&accuracies[0]["images"], &accuracies[0]["skipped"]), (&Value::from(12), &Value::from(1)));
    assert!(accuracies[1]["failed"].as_str().unwrap().contains("16 divides") && accuracies[1]["top1"].is_null());

    let json = folder.path().join("cls.json");
    let files = [weights.display().to_string(), json.display().to_string()];
    let arguments = ["--model", "deit_tiny", "--checkpoint", &files[0], "--data", &data, "--size", "32", "--json", &files[1]];
    run(program::TEST_CLS, &arguments).succeeded();
    let judged: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(accuracies[0]["top1"], judged["metrics"]["top1"]);

    // Tuning on the validation images does not lower the accuracy; the figure without tuning stays.
    let train = format!("{data}/val");
    study(&out, &[&plan[..], &["--linear-tuning", &train]].concat()).succeeded();
    let tuned = &stored(&out)["accuracies"];
    assert_eq!(tuned.as_array().unwrap().len(), 2);
    let row = tuned.as_array().unwrap().iter().find(|row| row["side"] == 32).unwrap();
    assert_eq!(row["top1"], judged["metrics"]["top1"]);
    assert!(row["tuned_top1"].as_f64().unwrap() >= row["top1"].as_f64().unwrap(), "{row}");
    assert!(fs::read_to_string(out.join("study.md")).unwrap().contains("## Accuracy without fine-tuning"));

    // Known rows are not repeated; other weights, classes, precisions or tuning images give new rows.
    let before = stored(&out)["accuracies"].clone();
    let silent = study(&out, &[&plan[..], &["--linear-tuning", &train]].concat());
    assert!(!silent.stderr.contains("accuracy of") && stored(&out)["accuracies"] == before, "{}", silent.stderr);
    let other = folder.path().join("other");
    fs::create_dir_all(&other).unwrap();
    for class in ["a", "b", "c"] {
        fs::create_dir_all(other.join(class)).unwrap();
        fs::copy(format!("{data}/val/{class}/1.png"), other.join(class).join("1.png")).unwrap();
    }
    let again = |arguments: &[&str]| {
        let ran = study(&out, &[&plan[..], arguments].concat());
        ran.succeeded();
        ran.stderr.matches("accuracy of").count()
    };
    assert_eq!(again(&["--linear-tuning", &other.display().to_string()]), 1);
    assert!(stored(&out)["accuracies"].to_string().contains("/other\""));
    assert_eq!(again(&["--precisions", "float32,bf16"]), 2);
    assert_eq!(stored(&out)["accuracies"].as_array().unwrap().len(), 4);
    let list = folder.path().join("classes.txt");
    fs::write(&list, "c\nb\na\n").unwrap();
    assert_eq!(again(&["--classes", &list.display().to_string()]), 2);
    device.seed(5);
    let classifier = BackboneConfig::named("deit_tiny").unwrap().try_init_classifier(3, &device).unwrap();
    export_safetensors(&weights, &state_dict_of(&classifier, &vmamba::zoo::key)).unwrap();
    assert_eq!(again(&[]), 2);
    assert_eq!(stored(&out)["accuracies"].as_array().unwrap().len(), 4, "the rows of the old weights are replaced");
    let csv = fs::read_to_string(out.join("accuracy.csv")).unwrap();
    assert!(csv.starts_with("model,side,precision,") && csv.contains("bf16"), "{csv}");

    // A wrong checkpoint is an error before the first measurement.
    let fresh = folder.path().join("fresh");
    let wrong = ["--models", "deit_small", "--sides", "32", "--data", &data, "--checkpoint"];
    study(&fresh, &[&wrong[..], &[&checkpoint.replace("deit_tiny=", "deit_small=")]].concat()).failed(&["--checkpoint deit_small"]);
    study(&fresh, &[&wrong[..], &[&checkpoint]].concat()).failed(&["deit_tiny is not among --models"]);
    assert!(!fresh.exists());
}

#[cfg(unix)]
#[test]
fn an_interrupted_evaluation_keeps_the_measurements() {
    let folder = tempfile::tempdir().unwrap();
    let (data, weights, out) = (folder.path().join("data"), folder.path().join("deit.safetensors"), folder.path().join("study"));
    for class in ["a", "b"] {
        fs::create_dir_all(data.join(class)).unwrap();
        RgbImage::from_pixel(40, 40, Rgb([9, 90, 190])).save(data.join(class).join("0.png")).unwrap();
        for number in 1..400 {
            fs::hard_link(data.join(class).join("0.png"), data.join(class).join(format!("{number}.png"))).unwrap();
        }
    }
    let classifier = BackboneConfig::named("deit_tiny").unwrap().try_init_classifier(2, &Device::flex()).unwrap();
    export_safetensors(&weights, &state_dict_of(&classifier, &vmamba::zoo::key)).unwrap();
    let words = folder.path().join("stderr");
    let mut child = std::process::Command::new(executable(STUDY))
        .args(["--models", "deit_tiny", "--tasks", "inference", "--sides", "224", "--rounds", "1", "--accuracy-batch", "2"])
        .args(["--checkpoint", &format!("deit_tiny={}", weights.display()), "--data", &data.display().to_string()])
        .args(["--out", &out.display().to_string()])
        .stderr(fs::File::create(&words).unwrap())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !fs::read_to_string(&words).unwrap().contains("accuracy of") {
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&words).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap();
    let text = fs::read_to_string(&words).unwrap();
    assert!(text.contains("the same command continues"), "{text}");
    let study = stored(&out);
    assert_eq!(
        (study["rows"].as_array().unwrap().len(), study["accuracies"].as_array().unwrap().len()),
        (1, 0),
        "an incomplete evaluation has no row"
    );
    assert!(out.join("study.md").exists());
}

#[test]
fn wrong_input_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    study(folder.path(), &["--models", "swin_giant"]).failed(&["swin_giant", "swin_tiny"]);
    study(folder.path(), &["--precisions", "tf32"]).failed(&["tf32"]);
    let none = folder.path().join("none").display().to_string();
    study(folder.path(), &["--models", "deit_tiny", "--data", &none, "--checkpoint", "deit_tiny=x"]).failed(&["--data", &none]);
    fs::write(folder.path().join("study.json"), "{\"rows\": 3}").unwrap();
    study(folder.path(), &["--models", "deit_tiny", "--sides", "32"]).failed(&["study.json"]);
    study(folder.path(), &["--models", "deit_tiny", "--checkpoint", "deit_tiny=x"]).failed(&["--checkpoint needs --data"]);
    for usage in [["--checkpoint", "deit_tiny"], ["--sides", "0"], ["--tasks", "testing"], ["--precisions", "fp8"]] {
        let ran = study(folder.path(), &usage);
        assert!(ran.code == Some(2) && ran.stderr.contains(usage[0]), "{usage:?}: {}", ran.stderr);
    }
}

#[test]
fn an_ablation_prints_published_and_own_variants_with_their_speed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let printed = run(ABLATION, &["--out", &out]);
    let text = printed.succeeded();
    for part in ["Scan patterns", "cascade_no_dwconv", "28.3", "5.18"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let own = folder.path().join("own.toml");
    let table = |depth: &str| {
        format!(
            "title = \"My variants\"\n[[row]]\nid = \"small\"\nbackbone = {{ family = \"deit\", embed_dim = 48, num_heads = 3, depth = {depth} }}\n"
        )
    };
    fs::write(&own, table("2")).unwrap();
    let own_file = own.display().to_string();
    let measured = ["--config", &own_file, "--measure-speed", "--runs", "1", "--rounds", "1", "--out", &out];
    run(ABLATION, &measured).succeeded();
    let csv = fs::read_to_string(Path::new(&out).join("my_variants.csv")).unwrap();
    let cells: Vec<&str> = csv.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(cells[0], "small");
    for speed in [cells[5], cells[7]] {
        assert!(speed.parse::<f64>().unwrap() > 0.0, "{csv}");
    }
    assert!(csv.contains("\"params, M, published\""), "{csv}");
    let markdown = fs::read_to_string(Path::new(&out).join("my_variants.md")).unwrap();
    assert!(markdown.contains("float32, batch 1, 224x224"), "{markdown}");

    // A changed model under the same name is measured again; an unchanged one is not.
    let options = || stored(Path::new(&out))["rows"].as_array().unwrap().iter().map(|row| row["options"].clone()).collect::<Vec<_>>();
    let first = options();
    assert!(!run(ABLATION, &measured).stderr.contains("inference of") && options() == first);
    fs::write(&own, table("1")).unwrap();
    assert!(run(ABLATION, &measured).stderr.contains("inference of My variants: small"));
    assert!(options().len() == 2 && options()[0] != first[0]);
    let twice = folder.path().join("twice.toml");
    fs::copy(&own, &twice).unwrap();
    let both = ["--config", &own_file, "--config", &twice.display().to_string(), "--out", &out];
    run(ABLATION, &both).failed(&["two tables", "my_variants.md"]);
    assert_eq!(run(ABLATION, &["--batch", "0"]).code, Some(2));
    fs::write(&own, table("\"deep\"")).unwrap();
    run(ABLATION, &["--config", &own_file, "--out", &out]).failed(&["own.toml", "depth"]);
    fs::write(&own, table("2").replace("id = \"small\"", "id = \"small\"\nids = 1")).unwrap();
    run(ABLATION, &["--config", &own_file, "--out", &out]).failed(&["ids"]);
    fs::write(&own, format!("table = \"d-state\"\n{}", table("2"))).unwrap();
    run(ABLATION, &["--config", &own_file, "--out", &out]).failed(&["published table has no `small`"]);
}
