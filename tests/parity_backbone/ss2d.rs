//! The operator alone, in every form that exists, both layouts.

use burn::prelude::*;
use serde_json::{Value, json};
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, GRADIENT_TOLERANCE, cases, check_gradients};
use vmamba::vmamba::Ss2d;
use vmamba::{OfficialConfig, official_key};

use crate::weights::load;

#[test]
fn ss2d_equals_the_official_operator_in_every_case() {
    let device = tests::device().autodiff();
    for name in cases("ss2d") {
        let case = Fixture::read("ss2d", &name);
        let given = case.config();
        let official = json!({
            "ssm_d_state": given["d_state"],
            "ssm_ratio": given["ssm_ratio"],
            "ssm_dt_rank": given["dt_rank"],
            "ssm_conv": given["d_conv"],
            "ssm_conv_bias": given["conv_bias"],
            "forward_type": given["forward_type"],
        });
        let config = OfficialConfig::parse(&official).unwrap_or_else(|error| panic!("{name}: {error}")).config;
        let width = given["d_model"].as_u64().unwrap() as usize;
        let channel_first = given["channel_first"] == Value::Bool(true);
        assert_eq!(config.d_inner(width) as u64, case.manifest["d_inner"].as_u64().unwrap(), "{name}");
        assert_eq!(config.dt_rank(width) as u64, case.manifest["dt_rank_actual"].as_u64().unwrap(), "{name}");

        let operator = load(Ss2d::new(&config, width, &device), &case.with_prefix("w."));
        let x = case.tensor("x").to_tensor::<4>(&device).require_grad();
        let out = to_layout(operator.forward(from_layout(x.clone(), channel_first), None), channel_first);
        let gradients = (out.clone() * case.tensor("grad_out").to_tensor(&device)).sum().backward();

        let mut comparison = Comparison::new(name);
        comparison.check("out", out, case.tensor("out"), FORWARD_TOLERANCE);
        comparison.check("dx", x.grad(&gradients).unwrap(), case.tensor("dx"), GRADIENT_TOLERANCE);
        check_gradients(&mut comparison, &operator, official_key, &gradients, &case.with_prefix("g."));
        comparison.finish();
    }
}

/// From the layout of a case to channels last.
pub fn from_layout(x: Tensor<4>, channel_first: bool) -> Tensor<4> {
    if channel_first { x.permute([0, 2, 3, 1]) } else { x }
}

/// From channels last to the layout of a case.
pub fn to_layout(x: Tensor<4>, channel_first: bool) -> Tensor<4> {
    if channel_first { x.permute([0, 3, 1, 2]) } else { x }
}
