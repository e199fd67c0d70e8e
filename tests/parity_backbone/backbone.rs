//! The whole backbone: every stem and downsampling, both layouts, odd sizes, a choice of stages.

use burn::prelude::*;
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, GRADIENT_TOLERANCE, cases, check_gradients, folders};
use vmamba::{FeaturePyramid, OfficialConfig, official_key};

use crate::weights::load;

#[test]
fn the_pyramid_and_its_gradients_equal_the_official_ones_in_every_case() {
    let device = tests::device().autodiff();
    for folder in folders("backbone_") {
        let weights = Fixture::read(&folder, "weights");
        let mut config = OfficialConfig::parse(weights.config()).unwrap_or_else(|error| panic!("{folder}: {error}")).config;
        // The cases were run in evaluation mode; without stochastic depth that is the same, and gradients can still be taken.
        config.drop_path_rate = 0.0;
        let backbone = load(config.init(&device), &weights.with_prefix(""));

        for name in cases(&folder).into_iter().filter(|name| name != "weights") {
            let case = Fixture::read(&folder, &name);
            let x = case.tensor("x").to_tensor::<4>(&device).require_grad();
            let features = backbone.forward_features(x.clone());
            assert_eq!(features.len(), config.out_indices.len(), "{folder}/{name}");

            let mut comparison = Comparison::new(format!("{folder}/{name}"));
            let mut loss = Tensor::<1>::zeros([1], &device);
            for ((feature, stage), channels) in features.into_iter().zip(&config.out_indices).zip(backbone.channels()) {
                assert_eq!(feature.dims()[1], channels, "{folder}/{name}");
                assert_eq!(feature.dims()[2..], config.stage_sizes([x.dims()[2], x.dims()[3]])[*stage], "{folder}/{name}");
                loss = loss + (feature.clone() * case.tensor(&format!("grad_feat{stage}")).to_tensor(&device)).sum();
                comparison.check(&format!("feat{stage}"), feature, case.tensor(&format!("feat{stage}")), FORWARD_TOLERANCE);
            }
            let gradients = loss.backward();
            comparison.check("dx", x.grad(&gradients).unwrap(), case.tensor("dx"), GRADIENT_TOLERANCE);
            check_gradients(&mut comparison, &backbone, official_key, &gradients, &case.with_prefix("g."));
            comparison.finish();
        }
    }
}
