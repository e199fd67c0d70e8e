//! The classifier's logits.

use tests::{Comparison, FORWARD_TOLERANCE, Fixture, folders, present};
use vmamba::OfficialConfig;

use crate::weights::load;

#[test]
fn logits_equal_the_official_ones_in_every_case() {
    if !present("classifier_s1") {
        return;
    }
    let device = tests::device();
    for folder in folders("classifier_") {
        let case = Fixture::read(&folder, "data");
        let official = OfficialConfig::parse(case.config()).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let classes = official.num_classes.expect("the manifest names the number of classes");
        let classifier = load(official.config.init_classifier(classes, &device), &case.with_prefix("w."));

        let mut comparison = Comparison::new(&folder);
        for key in case.keys().into_iter().filter(|key| key.starts_with("x_")) {
            let logits_key = key.replacen("x_", "logits_", 1);
            let logits = classifier.forward(case.tensor(key).to_tensor(&device));
            comparison.check(&logits_key, logits, case.tensor(&logits_key), FORWARD_TOLERANCE);
        }
        comparison.finish();
    }
}
