//! The built-in data are complete, and rows are found by name.

use std::collections::BTreeSet;

use vmamba::zoo::BackboneConfig;

use super::*;

fn data() -> &'static Published {
    published().expect("the built-in data")
}

/// Ids are unique and no source is empty.
fn check<R>(what: &str, table: &Sourced<R>, id: impl Fn(&R) -> String) {
    assert!(!table.source.is_empty() && !table.rows.is_empty(), "{what}");
    assert!(table.notes.iter().all(|note| !note.is_empty()), "{what}");
    let ids: BTreeSet<String> = table.rows.iter().map(id).collect();
    assert_eq!(ids.len(), table.rows.len(), "{what}: a duplicate id");
}

#[test]
fn every_table_has_a_source_and_unique_ids() {
    let Published { imagenet, costs, scaling, .. } = data();
    for (what, table) in [("main", &imagenet.main), ("full", &imagenet.full), ("repository", &imagenet.repository)] {
        check(what, table, |row| row.id.clone());
    }
    for (what, table) in [("classifiers", &costs.classifiers), ("detectors", &costs.detectors), ("segmentors", &costs.segmentors)] {
        check(what, table, |row| row.id.clone());
    }
    check("memory", &costs.memory, |row| row.id.clone());
    for table in Ablation::ALL {
        check(&format!("{table:?}"), ablation_table(table).expect("the built-in data"), |row| row.id.clone());
    }
    let study = Sourced { source: scaling.source.clone(), notes: scaling.notes.clone(), rows: scaling.rows.clone() };
    check("scaling", &study, |row| format!("{} {}", row.id, row.side));
}

#[test]
fn the_rows_of_detectors_and_segmentors_are_complete_and_their_ids_unique() {
    let rows = &data().ade20k_upernet;
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), rows.len());
    for row in rows {
        assert!(row.id.ends_with(&format!("_{}", row.crop)) && !row.source.is_empty(), "{}", row.id);
        assert!(row.id.contains(&row.backbone), "{}", row.id);
        assert_eq!(row.gflops.is_some(), row.flops_input.is_some(), "{}", row.id);
        assert!(row.params.is_some() != row.params_m.is_some(), "{}", row.id);
        assert!(data().segmentation_setting(row).is_some(), "{}", row.id);
    }
    let rows = &data().coco_mask_rcnn;
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), rows.len());
    for row in rows {
        let ending = row.batch.map_or(format!("_{}", row.schedule), |batch| format!("_{}_batch{batch}", row.schedule));
        assert!(row.id.ends_with(&ending) && !row.source.is_empty(), "{}", row.id);
        assert!(row.id.contains(&row.backbone), "{}", row.id);
        assert!(row.params.is_some() != row.params_m.is_some(), "{}", row.id);
        assert!(data().detection_setting(row).is_some(), "{}", row.id);
    }
}

#[test]
fn every_published_model_of_the_workspace_is_found_by_name() {
    for id in BackboneConfig::names().into_iter().filter(|name| name.contains("vmamba")) {
        let row = classifier(id).unwrap_or_else(|| panic!("{id}"));
        let cost = classifier_cost(id).unwrap_or_else(|| panic!("{id}"));
        assert!((cost.params as f64 / 1e6 - row.params_m).abs() <= 0.5, "{id}");
        let own = BackboneConfig::named(id).expect("a name of its list").classifier_complexity(1000, [224, 224]);
        assert_eq!(own.params, cost.params, "{id}");
    }
    for id in ["swin_base", "convnext_small", "deit_base", "xcit_small_12_p16", "hivit_tiny", "vim_small", "s4nd_convnext_tiny"] {
        assert!(classifier(id).is_some_and(|row| row.train_throughput.is_some()), "{id}");
    }
    assert!(classifier("resnet50").is_none(), "the lists have no ResNet");
}

#[test]
fn the_main_table_takes_precedence_and_the_other_lists_complete_it() {
    let hivit = classifier("hivit_base").expect("a row");
    assert_eq!((hivit.gflops, hivit.train_throughput), (15.9, Some(544.0)));
    let vanilla = classifier("vanilla_vmamba_tiny").expect("a row");
    assert_eq!((vanilla.gflops, vanilla.gflops_old, vanilla.top1), (5.6, Some(4.5), 82.2));
    assert_eq!(classifier("swin_tiny").expect("a row").top1, 81.3);
}

#[test]
fn rows_of_the_resolution_study_and_of_ablations_are_found() {
    let row = scaling("vmamba_tiny_s1l8", 768).expect("a row");
    assert_eq!((row.gflops, row.throughput, row.top1, row.top1_tuned), (57.66, 149.0, 74.66, 79.22));
    assert!(scaling("vmamba_tiny_s1l8", 1024).is_none() && scaling("vim_small", 224).is_none());
    assert_eq!(scaling_study().map(|study| (study.batch, study.rows.len())), Some((32, 48)));
    let steps: Vec<&str> = ablation(Ablation::Acceleration).iter().map(|row| row.id.as_str()).collect();
    assert_eq!(steps, ["vanilla", "a", "b", "c", "d", "d.1", "d.2", "e", "e.1", "e.2", "f", "g"]);
    let counts = Ablation::ALL.map(|table| ablation(table).len());
    assert_eq!(counts, [12, 8, 3, 5, 3, 3, 3]);
    let unidirectional = ablation(Ablation::ScanPattern).iter().find(|row| row.id == "unidi_no_dwconv").expect("a row");
    assert_eq!((unidirectional.dwconv, unidirectional.top1), (Some(false), 80.88));
    assert_eq!(memory("vmamba_tiny_s1l8").and_then(|row| row.train_memory_mb), Some(20_857));
}

#[test]
fn a_row_is_found_by_the_path_of_its_configuration() {
    let row = segmentation_row("configs/upernet/upernet_vmamba_tiny_s1l8_512.toml").unwrap().unwrap();
    assert_eq!((row.model.as_str(), row.miou_ss, row.params), ("VMamba-T[s1l8]", Some(47.9), Some(61_902_572)));
    assert!(segmentation_row("configs/camvid_nano.toml").unwrap().is_none());
    let swin = detection_row("mask_rcnn_swin_base_1x").unwrap().unwrap();
    assert_eq!(swin.figures(), [Some(46.9), None, None, Some(42.3), None, None]);
}

#[test]
fn an_average_precision_is_one_number_or_three() {
    assert!(AveragePrecision::try_from(vec![1.0, 2.0]).is_err_and(|reason| reason.contains("found 2")));
}

#[test]
fn a_detector_is_compared_with_its_published_row() {
    let row = detection_row("configs/mask_rcnn/mask_rcnn_vmamba_tiny_s1l8_1x.toml").unwrap().unwrap();
    let text = row.compare([47.5, 69.0, 52.0], [42.7, 66.4, 45.9]).text();
    assert!(text.contains("0.20") && text.contains("-0.30") && text.contains("47.3"), "{text}");
}

#[test]
fn a_comparison_shows_the_difference_where_both_are_known() {
    let row = segmentation_row("upernet_vmamba_tiny_s1l8_512").unwrap().unwrap();
    let text = row.compare(Measured { miou_ss: Some(48.4), miou_ms: None }).text();
    assert!(text.contains("0.50") && text.contains("48.40"), "{text}");
}
