//! Support for the parity tests: finds fixtures, reads cases and compares tensors. [`tool`] supports the tests of the programs.
//!
//! Fixtures are numbers of the official implementation. A case is a file `<name>.safetensors` and a manifest `<name>.json` with its
//! configuration. The folder of the fixtures is `$VMAMBA_SHARED/fixtures` when that variable is set, otherwise the small copy in
//! `tests/fixtures`.

pub mod formula;
pub mod tool;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{Gradients, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The folder `$VMAMBA_SHARED` with `fixtures/` and `data/`, when the variable is set.
///
/// # Panics
/// When the folder does not exist, because a silent skip would look like a pass.
pub fn shared_root() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os("VMAMBA_SHARED")?);
    assert!(root.join("fixtures").is_dir(), "VMAMBA_SHARED is {} but it has no folder `fixtures`", root.display());
    Some(root)
}

/// The folder with the fixtures: `$VMAMBA_SHARED/fixtures`, or the copy in the repository.
pub fn fixtures_root() -> PathBuf {
    shared_root().map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"), |root| root.join("fixtures"))
}

/// The device of the parity tests: the one that `VMAMBA_TEST_DEVICE` names (`cpu`, `cuda` or `vulkan`), by default the CPU.
///
/// # Panics
/// When the tests are not built for the device or it cannot be opened, because a silent skip would look like a pass.
pub fn device() -> Device {
    match std::env::var("VMAMBA_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        Ok(other) => panic!("VMAMBA_TEST_DEVICE={other}: the tests are not built for that device; build them with its feature"),
    }
}

/// Whether the fixture set has a file or folder. The small copy in the repository lacks large ones; a test that needs one is skipped with a
/// message.
///
/// # Panics
/// When the full set lacks the path, because a silent skip would look like a pass.
pub fn present(path: &str) -> bool {
    let found = fixtures_root().join(path).exists();
    assert!(found || shared_root().is_none(), "the full fixture set lacks {path}");
    if !found {
        println!("not run: {path} is only in the full fixture set ($VMAMBA_SHARED)");
    }
    found
}

/// The manifest of a case, without its tensors.
pub fn manifest(folder: &str, name: &str) -> Value {
    let path = fixtures_root().join(folder).join(format!("{name}.json"));
    serde_json::from_slice(&read_bytes(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One fixture case: the manifest and the tensors it describes.
pub struct Fixture {
    /// File stem, e.g. `n16`.
    pub name: String,
    /// The manifest `<name>.json`.
    pub manifest: Value,
    tensors: BTreeMap<String, FixtureTensor>,
}

/// A tensor of a safetensors file.
#[derive(Clone, Debug)]
pub struct FixtureTensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values in row-major order, converted to `f64`; integers are exact up to 2^53.
    pub values: Vec<f64>,
}

impl Fixture {
    /// Reads `<folder>/<name>.safetensors` and its manifest, `folder` being relative to [`fixtures_root`].
    pub fn read(folder: &str, name: &str) -> Self {
        let path = fixtures_root().join(folder).join(format!("{name}.safetensors"));
        let manifest = manifest(folder, name);
        let tensors = read_tensors(&path);
        Self { name: name.to_owned(), manifest, tensors }
    }

    /// The tensor called `key`, if the case has it.
    pub fn get(&self, key: &str) -> Option<&FixtureTensor> {
        self.tensors.get(key)
    }

    /// The tensor called `key`.
    pub fn tensor(&self, key: &str) -> &FixtureTensor {
        self.get(key).unwrap_or_else(|| panic!("case {} has no tensor `{key}`; it has {:?}", self.name, self.keys()))
    }

    /// Names of all tensors.
    pub fn keys(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// Tensors whose name starts with `prefix`, with the prefix removed: `with_prefix("w.")` is the state_dict of many cases.
    pub fn with_prefix(&self, prefix: &str) -> BTreeMap<String, FixtureTensor> {
        self.tensors.iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()))).collect()
    }

    /// The field `config` of the manifest.
    pub fn config(&self) -> &Value {
        &self.manifest["config"]
    }
}

/// The tensors of a safetensors file by name.
///
/// # Panics
/// When the file cannot be read or holds a tensor of a type that no fixture has.
pub fn read_tensors(path: &Path) -> BTreeMap<String, FixtureTensor> {
    let bytes = read_bytes(path);
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.tensors()
        .into_iter()
        .map(|(key, view)| {
            let raw = view.data();
            let values = match view.dtype() {
                Dtype::F32 => decode(raw, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
                Dtype::F64 => decode(raw, f64::from_le_bytes),
                Dtype::I32 => decode(raw, |b: [u8; 4]| f64::from(i32::from_le_bytes(b))),
                Dtype::I64 => decode(raw, |b: [u8; 8]| i64::from_le_bytes(b) as f64),
                Dtype::U8 | Dtype::BOOL => raw.iter().map(|v| f64::from(*v)).collect(),
                other => panic!("{}: tensor {key} has the unexpected type {other:?}", path.display()),
            };
            (key, FixtureTensor { shape: view.shape().to_vec(), values })
        })
        .collect()
}

impl FixtureTensor {
    /// As a float tensor on `device`.
    pub fn to_tensor<const D: usize>(&self, device: &Device) -> Tensor<D> {
        let values: Vec<f32> = self.values.iter().map(|v| *v as f32).collect();
        Tensor::from_data(TensorData::new(values, self.shape.clone()), device)
    }

    /// As an integer tensor on `device`.
    pub fn to_int<const D: usize>(&self, device: &Device) -> Tensor<D, Int> {
        let values: Vec<i64> = self.values.iter().map(|v| *v as i64).collect();
        Tensor::from_data(TensorData::new(values, self.shape.clone()), device)
    }

    /// The values as `f32`, which is what the file holds for all floats.
    pub fn to_f32(&self) -> Vec<f32> {
        self.values.iter().map(|v| *v as f32).collect()
    }

    /// The values as bytes, for images.
    pub fn to_u8(&self) -> Vec<u8> {
        self.values.iter().map(|v| *v as u8).collect()
    }
}

/// Names of the cases in a fixture folder (the stems of its `.safetensors` files), sorted.
///
/// # Panics
/// When there is none, because a parity test without cases proves nothing.
pub fn cases(folder: &str) -> Vec<String> {
    let path = fixtures_root().join(folder);
    let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            (path.extension()? == "safetensors").then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{} holds no .safetensors file", path.display());
    names
}

/// Fixture folders whose name starts with `prefix`, sorted; at least one.
pub fn folders(prefix: &str) -> Vec<String> {
    let root = fixtures_root();
    let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{} has no folder `{prefix}*`", root.display());
    names
}

/// Forward results: largest difference over the largest magnitude of the reference. Both sides are float32 evaluations of sums of up to
/// a few thousand terms, whose rounding stays near 1e-6; 1e-4 is the bar of the project.
pub const FORWARD_TOLERANCE: f64 = 1e-4;

/// Gradients, relative to the largest magnitude of the reference gradient: they add a second, longer chain of float32 sums.
pub const GRADIENT_TOLERANCE: f64 = 1e-3;

/// Collects the errors of one case, prints the worst and fails with all that are too large.
pub struct Comparison {
    case: String,
    worst: f64,
    worst_name: String,
    failures: Vec<String>,
    compared: usize,
}

impl Comparison {
    /// Starts the comparison of a case.
    pub fn new(case: impl Into<String>) -> Self {
        Self { case: case.into(), worst: 0.0, worst_name: String::new(), failures: Vec::new(), compared: 0 }
    }

    /// Compares `actual` with `expected`: equal shapes, and `max |actual - expected| <= tolerance * max |expected|`
    /// (or `<= 1e-7` absolute, for references that are analytically zero).
    pub fn check<const D: usize>(&mut self, name: &str, actual: Tensor<D>, expected: &FixtureTensor, tolerance: f64) {
        let shape = actual.dims().to_vec();
        let values: Vec<f64> = actual.into_data().iter::<f64>().collect();
        self.check_values(name, &shape, &values, expected, tolerance);
    }

    /// As [`Comparison::check`], for values outside a tensor.
    pub fn check_values(&mut self, name: &str, shape: &[usize], values: &[f64], expected: &FixtureTensor, tolerance: f64) {
        self.compared += 1;
        if shape != expected.shape {
            self.failures.push(format!("{name}: shape {shape:?}, reference {:?}", expected.shape));
            return;
        }
        let scale = expected.values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let mut difference = 0.0_f64;
        for (a, e) in values.iter().zip(&expected.values) {
            let d = (a - e).abs();
            // `max` would drop a NaN.
            if !d.is_finite() {
                difference = f64::INFINITY;
                break;
            }
            difference = difference.max(d);
        }
        let error = if difference <= 1e-7 { difference } else { difference / scale.max(1e-30) };
        if error > self.worst || self.worst_name.is_empty() {
            self.worst = error;
            self.worst_name = name.to_owned();
        }
        if error > tolerance {
            self.failures.push(format!("{name}: error {error:.2e} of max |reference| {scale:.3e}, allowed {tolerance:.0e}"));
        }
    }

    /// Compares two scalars with a relative tolerance.
    pub fn check_scalar(&mut self, name: &str, actual: f64, expected: f64, tolerance: f64) {
        let expected = FixtureTensor { shape: vec![1], values: vec![expected] };
        self.check_values(name, &[1], &[actual], &expected, tolerance);
    }

    /// Prints the worst error of the case.
    ///
    /// # Panics
    /// When a value was out of tolerance, or when nothing was compared.
    pub fn finish(self) {
        println!("{:<44} {:>3} tensors, worst {:.2e} ({})", self.case, self.compared, self.worst, self.worst_name);
        assert!(self.compared > 0, "{}: nothing was compared", self.case);
        assert!(self.failures.is_empty(), "{}:\n  {}", self.case, self.failures.join("\n  "));
    }
}

/// Compares the gradients of a module's parameters with those of a fixture, by official key. `keys` maps a parameter's path to its key.
///
/// # Panics
/// When a parameter has no gradient, or a stored gradient no parameter.
pub fn check_gradients<M: Module>(
    comparison: &mut Comparison,
    module: &M,
    keys: fn(&str) -> String,
    gradients: &Gradients,
    expected: &BTreeMap<String, FixtureTensor>,
) {
    let mut visitor = GradientCheck { comparison, keys, gradients, expected, path: Vec::new(), seen: BTreeSet::new() };
    module.visit(&mut visitor);
    let unmatched: Vec<_> = expected.keys().filter(|key| !visitor.seen.contains(*key)).collect();
    assert!(unmatched.is_empty(), "no parameter has the key of these gradients: {unmatched:?}");
}

struct GradientCheck<'a> {
    comparison: &'a mut Comparison,
    keys: fn(&str) -> String,
    gradients: &'a Gradients,
    expected: &'a BTreeMap<String, FixtureTensor>,
    path: Vec<String>,
    seen: BTreeSet<String>,
}

impl ModuleVisitor for GradientCheck<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = (self.keys)(&self.path.join("."));
        if let Some(expected) = self.expected.get(&key) {
            let gradient = param.val().grad(self.gradients).unwrap_or_else(|| panic!("{key} received no gradient"));
            self.comparison.check(&format!("g.{key}"), gradient, expected, GRADIENT_TOLERANCE);
            self.seen.insert(key);
        }
    }
}

fn read_bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decode<const N: usize>(raw: &[u8], convert: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    raw.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
}
