//! One block: pre- and post-norm, gated MLP, without scan, without MLP.

use serde_json::Value;
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, GRADIENT_TOLERANCE, cases, check_gradients};
use vmamba::vmamba::VssBlock;
use vmamba::{OfficialConfig, official_key};

use crate::ss2d::{from_layout, to_layout};
use crate::weights::load;

#[test]
fn a_block_equals_the_official_one_in_every_case() {
    let device = tests::device().autodiff();
    for name in cases("vssblock") {
        let case = Fixture::read("vssblock", &name);
        // The block's own arguments have the names and defaults of the model's, but for the width and the layout.
        let mut official = case.config().clone();
        let arguments = official.as_object_mut().unwrap();
        let width = arguments.remove("hidden_dim").unwrap().as_u64().unwrap() as usize;
        let channel_first = arguments.remove("channel_first").unwrap() == Value::Bool(true);
        let config = OfficialConfig::parse(&official).unwrap_or_else(|error| panic!("{name}: {error}")).config;

        // Evaluation mode: no stochastic depth.
        let block = load(VssBlock::new(&config, width, 0.0, &device), &case.with_prefix("w."));
        let x = case.tensor("x").to_tensor::<4>(&device).require_grad();
        let out = to_layout(block.forward(from_layout(x.clone(), channel_first)), channel_first);
        let gradients = (out.clone() * case.tensor("grad_out").to_tensor(&device)).sum().backward();

        let mut comparison = Comparison::new(format!("vssblock/{name}"));
        comparison.check("out", out, case.tensor("out"), FORWARD_TOLERANCE);
        comparison.check("dx", x.grad(&gradients).unwrap(), case.tensor("dx"), GRADIENT_TOLERANCE);
        check_gradients(&mut comparison, &block, official_key, &gradients, &case.with_prefix("g."));
        comparison.finish();
    }
}
