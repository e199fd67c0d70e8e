//! Named float32 tensors.

use std::collections::BTreeMap;

use super::Origin;

/// A tensor of a state dict, float32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values; as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// Weights by key, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    tensors: BTreeMap<String, StateTensor>,
    skipped: Vec<String>,
}

impl StateDict {
    /// An empty state dict.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor, replacing one with the same key.
    pub fn insert(&mut self, key: impl Into<String>, tensor: StateTensor) {
        self.tensors.insert(key.into(), tensor);
    }

    /// The tensor with this key.
    pub fn get(&self, key: &str) -> Option<&StateTensor> {
        self.tensors.get(key)
    }

    /// The tensor with this key, mutable.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut StateTensor> {
        self.tensors.get_mut(key)
    }

    /// Removes and returns the tensor with this key.
    pub fn remove(&mut self, key: &str) -> Option<StateTensor> {
        self.tensors.remove(key)
    }

    /// Keys and tensors, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &StateTensor)> {
        self.tensors.iter().map(|(key, tensor)| (key.as_str(), tensor))
    }

    /// Keys and mutable tensors, sorted by key.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&str, &mut StateTensor)> {
        self.tensors.iter_mut().map(|(key, tensor)| (key.as_str(), tensor))
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Entries of the file that are not tensors, each with a description. They are not part of the state dict.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    pub(super) fn skip(&mut self, entry: String) {
        self.skipped.push(entry);
    }

    /// Removes the wrapper's prefix, see [`without_module_prefix`].
    pub(super) fn without_module_prefix(mut self) -> Self {
        self.tensors = without_module_prefix(self.tensors);
        self
    }
}

/// Removes the `module.` that data-parallel and averaging wrappers put before every key, and with it their step counter. Entries stay as
/// they are unless all of them have the prefix.
pub(super) fn without_module_prefix<T>(entries: BTreeMap<String, T>) -> BTreeMap<String, T> {
    const PREFIX: &str = "module.";
    let is_counter = |key: &str| matches!(key, "steps" | "n_averaged");
    let wrapped = entries.keys().all(|key| key.starts_with(PREFIX) || is_counter(key));
    if !wrapped || !entries.keys().any(|key| key.starts_with(PREFIX)) {
        return entries;
    }
    entries.into_iter().filter_map(|(key, entry)| Some((key.strip_prefix(PREFIX)?.to_owned(), entry))).collect()
}

/// Prefixes of wrappers around a whole model: data-parallel training, `torch.compile`, a module that holds the model.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// The prefix of the pretrained network in the files of masked image modelling, beside its decoder.
const ENCODER: &str = "encoder.";

/// Prefix of the decoder, which no other training needs.
const DECODER: &str = "decoder.";

/// Removes the prefixes of wrappers, as far as all keys have them. What is removed or left out is added to `origin`.
pub(super) fn unwrapped<T>(entries: impl IntoIterator<Item = (String, T)>, mut origin: Origin) -> (BTreeMap<String, T>, Origin) {
    let mut entries: BTreeMap<String, T> = entries.into_iter().collect();
    // Wrappers nest: `module._orig_mod.`.
    loop {
        let counted = |key: &str| matches!(key, "steps" | "n_averaged");
        let all = |prefix: &&str| {
            entries.keys().any(|key| key.starts_with(*prefix)) && entries.keys().all(|key| key.starts_with(*prefix) || counted(key))
        };
        let encoder = entries.keys().any(|key| key.starts_with(ENCODER))
            && entries.keys().all(|key| key.starts_with(ENCODER) || key.starts_with(DECODER));
        let Some(prefix) = WRAPPERS.into_iter().find(all).or(encoder.then_some(ENCODER)) else { return (entries, origin) };
        origin.prefix.push_str(prefix);
        let mut kept = BTreeMap::new();
        for (key, entry) in entries {
            match key.strip_prefix(prefix) {
                Some(rest) => drop(kept.insert(rest.to_owned(), entry)),
                None if counted(&key) => {}
                None => origin.left_out.push(key),
            }
        }
        entries = kept;
    }
}

impl FromIterator<(String, StateTensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, StateTensor)>>(iter: I) -> Self {
        Self { tensors: iter.into_iter().collect(), skipped: Vec::new() }
    }
}

impl IntoIterator for StateDict {
    type Item = (String, StateTensor);
    type IntoIter = std::collections::btree_map::IntoIter<String, StateTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_wrappers_are_removed_when_all_keys_have_them_and_named() {
        let keys = |keys: &[&str]| {
            let (entries, origin) = unwrapped(keys.iter().map(|key| ((*key).to_owned(), ())), Origin::default());
            (entries.into_keys().collect::<Vec<_>>(), origin)
        };
        for (prefix, wrapped) in [
            ("_orig_mod.", ["_orig_mod.a.w", "_orig_mod.b"]),
            ("model.", ["model.a.w", "model.b"]),
            ("module.", ["module.a.w", "module.b"]),
            ("encoder.", ["encoder.a.w", "encoder.b"]),
            ("module._orig_mod.", ["module._orig_mod.a.w", "module._orig_mod.b"]),
        ] {
            let (found, origin) = keys(&wrapped);
            assert_eq!(found, ["a.w", "b"], "{prefix}");
            assert_eq!(origin.to_string(), format!("weights without the prefix `{prefix}`"));
        }
        let (found, origin) = keys(&["decoder.0.weight", "encoder.a", "encoder.b"]);
        assert_eq!((found, origin.left_out), (vec!["a".to_owned(), "b".to_owned()], vec!["decoder.0.weight".to_owned()]));
        for whole in [["backbone.a", "model.b"], ["a", "module.b"], ["encoder.a", "head.b"]] {
            let (found, origin) = keys(&whole);
            assert_eq!((found, origin), (whole.map(str::to_owned).to_vec(), Origin::default()));
        }
    }

    #[test]
    fn the_prefix_of_wrapped_models_is_removed_only_when_all_have_it() {
        let of = |keys: &[&str]| -> StateDict {
            keys.iter().map(|key| ((*key).to_owned(), StateTensor { shape: vec![1], data: vec![0.0] })).collect()
        };
        let keys = |state: StateDict| state.keys().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(keys(of(&["module.a", "module.b", "steps"]).without_module_prefix()), ["a", "b"]);
        assert_eq!(keys(of(&["module.a", "b"]).without_module_prefix()), ["b", "module.a"]);
        assert_eq!(keys(of(&["steps"]).without_module_prefix()), ["steps"]);
    }
}
