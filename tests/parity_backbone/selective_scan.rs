//! The one-dimensional scan, forward and the gradient of every input, in every case.

use tests::{Comparison, FORWARD_TOLERANCE, Fixture, GRADIENT_TOLERANCE, cases};
use vision_ops::selective_scan;

#[test]
fn the_scan_and_its_gradients_equal_the_official_ones_in_every_case() {
    let device = tests::device().autodiff();
    for name in cases("selective_scan") {
        let case = Fixture::read("selective_scan", &name);
        let softplus = case.manifest["delta_softplus"].as_bool().unwrap_or_else(|| panic!("{name}: no delta_softplus in the manifest"));
        let leaf3 = |key: &str| case.tensor(key).to_tensor::<3>(&device).require_grad();
        let leaf4 = |key: &str| case.tensor(key).to_tensor::<4>(&device).require_grad();
        let optional = |key: &str| case.get(key).map(|t| t.to_tensor::<1>(&device).require_grad());
        let (u, delta, b, c) = (leaf3("u"), leaf3("delta"), leaf4("B"), leaf4("C"));
        let a = case.tensor("A").to_tensor::<2>(&device).require_grad();
        let (d, bias) = (optional("D"), optional("delta_bias"));

        let y = selective_scan(u.clone(), delta.clone(), a.clone(), b.clone(), c.clone(), d.clone(), bias.clone(), softplus);
        let gradients = (y.clone() * case.tensor("dout").to_tensor(&device)).sum().backward();
        let mut comparison = Comparison::new(format!("selective_scan/{name}"));
        comparison.check("out", y, case.tensor("out"), FORWARD_TOLERANCE);
        comparison.check("du", u.grad(&gradients).unwrap(), case.tensor("du"), GRADIENT_TOLERANCE);
        comparison.check("ddelta", delta.grad(&gradients).unwrap(), case.tensor("ddelta"), GRADIENT_TOLERANCE);
        comparison.check("dA", a.grad(&gradients).unwrap(), case.tensor("dA"), GRADIENT_TOLERANCE);
        comparison.check("dB", b.grad(&gradients).unwrap(), case.tensor("dB"), GRADIENT_TOLERANCE);
        comparison.check("dC", c.grad(&gradients).unwrap(), case.tensor("dC"), GRADIENT_TOLERANCE);
        if let Some(d) = d {
            comparison.check("dD", d.grad(&gradients).unwrap(), case.tensor("dD"), GRADIENT_TOLERANCE);
        }
        if let Some(bias) = bias {
            comparison.check("ddelta_bias", bias.grad(&gradients).unwrap(), case.tensor("ddelta_bias"), GRADIENT_TOLERANCE);
        }
        comparison.finish();
    }
}
