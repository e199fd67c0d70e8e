//! Parameters and FLOPs against what the official tool counted of the public implementations.

use serde_json::Value;
use vmamba::complexity::Complexity;

/// Compares the cost for every image size that `complexity.json` has of the network `name`, kind by kind.
pub fn check(name: &str, cost: impl Fn([usize; 2]) -> Complexity) {
    let path = tests::fixtures_root().join("complexity.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let counted = &serde_json::from_slice::<Value>(&text).unwrap()["others"][name];
    for side in [224, 384, 512, 640, 768] {
        let cost = cost([side, side]);
        assert_eq!(Some(cost.params), counted[format!("params_{side}")].as_u64(), "{name}: parameters");
        assert_eq!(Some(cost.flops()), counted[format!("flops_{side}")].as_u64(), "{name}: FLOPs at {side}");
        let expected = counted[format!("by_op_gflops_{side}")].as_object().unwrap();
        assert_eq!(cost.by_op.len(), expected.len(), "{name}: kinds of operations");
        for (op, flops) in &cost.by_op {
            let expected = expected[op.official_name()].as_f64().unwrap() * 1e9;
            assert_eq!(*flops, expected.round() as u64, "{name}: {op:?} at {side}");
        }
    }
}
