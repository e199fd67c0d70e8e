//! The comparison backbones against their public implementations, run by `generate.py` beside this file (versions in every manifest).
//!
//! Weights and images are made of their names (`tests::formula`), so that networks of full size are compared: logits, every level of the
//! pyramid, the gradient of the image and of every parameter, and that every key of the reference's state dict is a parameter of ours.

mod convnext;
mod deit;
mod hivit;
mod resnet;
mod s4nd_convnext;
mod swin;
mod vim;
mod xcit;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{Gradients, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tests::{Comparison, FORWARD_TOLERANCE, FixtureTensor, GRADIENT_TOLERANCE, formula};
use vmamba::checkpoint::{LoadOptions, StateDict, StateTensor, load_into};

/// Parameters of one family: the reference's key for a path in our module, and that key for one in another spelling.
#[derive(Clone, Copy)]
pub struct Keys {
    /// Path in our module to the reference's key.
    pub key: fn(&str) -> String,
    /// Another spelling to the reference's key.
    pub rename: for<'a> fn(&'a str) -> Option<Cow<'a, str>>,
}

/// What the reference computed.
pub struct Case {
    name: String,
    manifest: Value,
    tensors: std::collections::BTreeMap<String, FixtureTensor>,
}

impl Case {
    /// Reads `fixtures/<name>.json` and `.safetensors`.
    pub fn read(name: &str) -> Self {
        let file = |ending: &str| -> (PathBuf, Vec<u8>) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity_baselines/fixtures").join(format!("{name}.{ending}"));
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, bytes)
        };
        let (path, bytes) = file("safetensors");
        let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tensors = tensors.tensors().into_iter().map(|(key, view)| {
            let values = match view.dtype() {
                Dtype::F32 => view.data().as_chunks().0.iter().map(|chunk| f64::from(f32::from_le_bytes(*chunk))).collect(),
                Dtype::F64 => view.data().as_chunks().0.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect(),
                other => panic!("{}: {key} is {other:?}", path.display()),
            };
            (key, FixtureTensor { shape: view.shape().to_vec(), values })
        });
        Self { name: name.to_owned(), manifest: serde_json::from_slice(&file("json").1).unwrap(), tensors: tensors.collect() }
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let shape = |value: &Value| value.as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect();
        self.manifest["keys"].as_object().unwrap().iter().map(|(key, value)| (key.clone(), shape(value))).collect()
    }

    /// `module` with the weights of the case: its keys must be exactly the reference's, and those of every other spelling as well.
    pub fn load<M: Module>(&self, module: M, keys: Keys) -> M {
        let options = || LoadOptions::new().rename(keys.rename);
        let mut state = StateDict::new();
        for (key, shape) in self.shapes() {
            let data = formula::parameter(&key, &shape);
            state.insert(&key, StateTensor { shape, data });
        }
        let (module, _) = load_into(module, &keys.key, &state, &options()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        // Taken now: the statistics of batch norms are shared by clones, so that what is loaded into one shows in the other.
        let ours = vmamba::checkpoint::state_dict_of(&module, &keys.key);
        for (spelling, names) in self.manifest["spellings"].as_object().unwrap() {
            let names = names.as_object().unwrap();
            assert!(!names.is_empty(), "{}: no keys in the spelling of {spelling}", self.name);
            let mut renamed = StateDict::new();
            for (theirs, reference) in names {
                match reference.as_str() {
                    Some(reference) => {
                        let tensor = state.get(reference).unwrap_or_else(|| panic!("{}: no parameter {reference}", self.name));
                        renamed.insert(theirs, tensor.clone());
                    }
                    // A buffer that is no parameter.
                    None => renamed.insert(theirs, StateTensor { shape: vec![1], data: vec![0.0] }),
                }
            }
            let (again, _) = load_into(module.clone(), &keys.key, &renamed, &options())
                .unwrap_or_else(|error| panic!("{}: keys of {spelling}: {error}", self.name));
            assert!(ours == vmamba::checkpoint::state_dict_of(&again, &keys.key), "{}: {spelling} names parameters otherwise", self.name);
        }
        module
    }

    /// Compares the outputs of all sizes, and where the case has gradients, these. `forward` returns the outputs by name, such as
    /// `("logits", tensor)`; all are flattened.
    pub fn check<M: Module>(&self, module: &M, keys: Keys, forward: impl Fn(&M, Tensor<4>) -> Vec<(String, Tensor<1>, Vec<usize>)>) {
        let mut comparison = Comparison::new(&self.name);
        let size = |value: &Value| [0, 1].map(|axis| value[axis].as_u64().unwrap() as usize);
        let plain = tests::device();
        let evaluated = module.valid();
        let mut outputs = 0;
        for value in self.manifest["sizes"].as_array().unwrap() {
            let [height, width] = size(value);
            for (name, output, shape) in forward(&evaluated, self.image([height, width], &plain)) {
                let name = format!("{name}.{height}x{width}");
                let expected = self.tensors.get(&name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
                let values: Vec<f64> = output.into_data().iter::<f64>().collect();
                comparison.check_values(&name, &shape, &values, expected, FORWARD_TOLERANCE);
                outputs += 1;
            }
        }
        let stored = self.tensors.keys().filter(|key| *key != "dx" && !key.starts_with("g.")).count();
        assert_eq!(outputs, stored, "{}: outputs compared, and stored", self.name);
        if !self.manifest["gradient_size"].is_null() {
            let device = tests::device().autodiff();
            let x = self.image(size(&self.manifest["gradient_size"]), &device).require_grad();
            let mut loss = Tensor::<1>::zeros([1], &device);
            for (name, output, shape) in forward(module, x.clone()) {
                let weights = formula::values(&format!("grad.{name}"), &shape, 1.0, 0.0);
                loss = loss + (output * Tensor::from_data(TensorData::new(weights, [shape.iter().product::<usize>()]), &device)).sum();
            }
            let gradients = loss.backward();
            comparison.check("dx", x.grad(&gradients).unwrap(), &self.tensors["dx"], GRADIENT_TOLERANCE);
            let mut visitor =
                Projections { case: self, keys, gradients: &gradients, comparison: &mut comparison, path: Vec::new(), seen: 0 };
            module.visit(&mut visitor);
            let stored = self.tensors.keys().filter(|key| key.starts_with("g.")).count();
            assert_eq!(visitor.seen, stored, "{}: gradients compared, and stored", self.name);
        }
        comparison.finish();
    }

    fn image(&self, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
        let shape = [self.manifest["batch"].as_u64().unwrap() as usize, 3, height, width];
        Tensor::from_data(TensorData::new(formula::values(&format!("x.{height}x{width}"), &shape, 1.0, 0.0), shape), device)
    }
}

/// An output under its name, for [`Case::check`].
pub fn output<const D: usize>(name: impl Into<String>, tensor: Tensor<D>) -> (String, Tensor<1>, Vec<usize>) {
    let shape = tensor.dims().to_vec();
    (name.into(), tensor.reshape([-1]), shape)
}

/// The levels of a pyramid as `feat0`, `feat1`, …
pub fn levels(features: Vec<Tensor<4>>) -> Vec<(String, Tensor<1>, Vec<usize>)> {
    features.into_iter().enumerate().map(|(level, feature)| output(format!("feat{level}"), feature)).collect()
}

/// Compares every parameter's gradient with the three numbers stored of it, relative to its norm.
struct Projections<'a> {
    case: &'a Case,
    keys: Keys,
    gradients: &'a Gradients,
    comparison: &'a mut Comparison,
    path: Vec<String>,
    seen: usize,
}

impl ModuleVisitor for Projections<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = (self.keys.key)(&self.path.join("."));
        let Some(expected) = self.case.tensors.get(&format!("g.{key}")) else { return };
        let gradient = param.val().grad(self.gradients).unwrap_or_else(|| panic!("{key} received no gradient"));
        let shape = gradient.dims();
        let values: Vec<f64> = gradient.into_data().iter::<f64>().collect();
        let along = |name: &str| -> f64 {
            let direction = formula::values(&format!("{name}.{key}"), &shape, 1.0, 0.0);
            values.iter().zip(direction).map(|(value, direction)| value * f64::from(direction)).sum()
        };
        let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        self.comparison.check_values(&format!("g.{key}"), &[3], &[along("first"), along("second"), norm], expected, GRADIENT_TOLERANCE);
        self.seen += 1;
    }
}
