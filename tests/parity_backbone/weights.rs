//! Fixture weights into a module by official key.

use std::collections::BTreeMap;

use burn::module::Module;
use tests::FixtureTensor;
use vmamba::checkpoint::{LoadOptions, StateDict, StateTensor, load_into, state_dict_of};
use vmamba::official_key;

/// The module with the weights of a case, whose keys and shapes must be exactly ours.
pub fn load<M: Module>(module: M, weights: &BTreeMap<String, FixtureTensor>) -> M {
    let mut state = StateDict::new();
    for (key, tensor) in weights {
        state.insert(key, StateTensor { shape: tensor.shape.clone(), data: tensor.to_f32() });
    }
    let (module, _) = load_into(module, &official_key, &state, &LoadOptions::new()).unwrap_or_else(|error| panic!("{error}"));
    // The loader forgives old names and trailing dimensions of 1; the module's own dictionary must be the official one without that.
    assert!(state_dict_of(&module, &official_key) == state, "our state dict is not the official one");
    module
}
