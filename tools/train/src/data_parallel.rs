//! Data parallelism, as PyTorch's `DistributedDataParallel`: every device has a replica of the model, computes the gradients of its own
//! batches, and takes the same step with the mean of all gradients.
//!
//! The mean is Burn's all-reduce, which only the CUDA backend has (through NCCL). It is called once on the gradients of a whole step.
//! `Tensor::set_distributed` is not used, because its backward counts the devices on which a parameter was used: a mask head without an
//! object in one device's batch would be averaged over the other devices alone, so the replicas would drift apart, and a device that leaves
//! out its backward because its loss is not finite would block all others forever.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::Scope;
use std::time::Duration;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use burn::tensor::distributed::{ReduceOperation, all_reduce};

use crate::device::{DeviceChoice, DeviceError};
use crate::optimizer::Optimizer;
use vmamba_panics::{catch_within, panic_message};

/// Averages a vector `[length]` over all devices. The thread of every device calls it with vectors of equal lengths in the same order.
type Mean = Arc<dyn Fn(Tensor<1>) -> Tensor<1> + Send + Sync>;

/// The devices of a run, with gradients.
pub struct DeviceGroup {
    first: Device,
    others: Vec<Device>,
    mean: Mean,
}

/// The library Burn's all-reduce loads at run time. It does not look for `libnccl.so.2`, the name in packages without headers.
const NCCL: &str = "NVIDIA's NCCL library by the name libnccl.so (package libnccl-dev, or a link to libnccl.so.2)";

/// Timeout for the first all-reduce between the devices.
const PATIENCE: Duration = Duration::from_secs(120);

impl DeviceGroup {
    /// One device, with or without gradients.
    pub fn single(device: Device) -> Self {
        Self { first: device.autodiff(), others: Vec::new(), mean: Arc::new(|values| values) }
    }

    /// Opens the devices. Several devices average a few numbers at once, so a missing library is known before any other work.
    ///
    /// # Errors
    /// When a device is missing, or Burn has no all-reduce for it.
    pub fn open(choices: &[DeviceChoice]) -> Result<Self, DeviceError> {
        if let Some(reason) = refusal(choices) {
            return Err(DeviceError::Group(reason));
        }
        let opened = choices.iter().map(|choice| choice.open()).collect::<Result<Vec<_>, _>>()?;
        if opened.len() > 1 {
            let probed = opened.clone();
            let means = catch_within(PATIENCE, move || means_of_ranks(&probed))
                .map_err(|reason| DeviceError::Group(format!("Burn's all-reduce between the devices failed: {reason}; it needs {NCCL}")))?;
            let expected = (opened.len() - 1) as f32 / 2.0;
            if means.iter().any(|mean| *mean != expected) {
                let message = format!("Burn's all-reduce computes wrong results: the mean is {expected}, the devices found {means:?}");
                return Err(DeviceError::Group(message));
            }
        }
        let plain = opened.clone();
        Self::with_mean(opened, move |values| burn_mean(values, &plain))
    }

    /// Devices whose gradients `mean` averages, where Burn has no all-reduce. The thread of every device calls `mean` with vectors of the
    /// same lengths in the same order, and gets the mean over all devices.
    ///
    /// # Errors
    /// When there is no device.
    pub fn with_mean(
        devices: impl IntoIterator<Item = Device>,
        mean: impl Fn(Tensor<1>) -> Tensor<1> + Send + Sync + 'static,
    ) -> Result<Self, DeviceError> {
        let mut devices = devices.into_iter().map(Device::autodiff);
        let Some(first) = devices.next() else { return Err(DeviceError::Group("no device is named".to_owned())) };
        Ok(Self { first, others: devices.collect(), mean: Arc::new(mean) })
    }

    /// Number of devices.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// The device that validates and saves.
    pub fn first(&self) -> &Device {
        &self.first
    }
}

/// Why Burn cannot train on these devices together; `None` if it can.
fn refusal(choices: &[DeviceChoice]) -> Option<String> {
    let [first, others @ ..] = choices else { return None };
    if others.is_empty() {
        return None;
    }
    let backend = choices.iter().find_map(|choice| match choice {
        DeviceChoice::Cpu => Some("CPU"),
        DeviceChoice::Vulkan(_) => Some("Vulkan"),
        DeviceChoice::Cuda(_) => None,
    });
    if let Some(backend) = backend {
        return Some(format!(
            "Burn's {backend} backend has no all-reduce, which averages the gradients of several devices; only CUDA has one. \
             Use {first} alone, and train.accumulation for a larger batch"
        ));
    }
    let twice = choices.iter().enumerate().find(|(position, choice)| choices[..*position].contains(choice));
    twice.map(|(_, choice)| format!("{choice} is named twice; every device holds one copy of the model"))
}

/// The mean over `devices` by Burn's all-reduce.
fn burn_mean(values: Tensor<1>, devices: &[Device]) -> Tensor<1> {
    all_reduce(values, ReduceOperation::Mean, devices.to_vec()).resolve()
}

/// The mean of the ranks 0, 1, 2, … as each device computes it.
fn means_of_ranks(devices: &[Device]) -> Vec<f32> {
    std::thread::scope(|scope| {
        let find = |(rank, device)| move || burn_mean(Tensor::full([1], rank as f32, device), devices).into_scalar::<f32>();
        let threads: Vec<_> = devices.iter().enumerate().map(|numbered| scope.spawn(find(numbered))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// The model of one device.
pub struct Replica<M> {
    /// The device, with gradients.
    pub device: Device,
    /// Its weights are equal on all devices. Batch norms keep the statistics of the batches of their device.
    pub model: M,
    /// Its moments are equal on all devices.
    pub optimizer: Optimizer,
    /// Gradients of this step so far.
    gradients: GradientsAccumulator<M>,
}

impl<M: Module> Replica<M> {
    /// A replica before the first step, or after a restored one.
    pub fn new(device: Device, model: M, optimizer: Optimizer) -> Self {
        Self { device, model, optimizer, gradients: GradientsAccumulator::new() }
    }

    fn copy_to(&self, device: &Device) -> Self {
        let plain = device.clone().inner();
        // A clone shares the running statistics of batch norms, so `fork` would move the original's too; `valid` copies them.
        let model = self.model.valid().fork(&plain).train();
        Self::new(device.clone(), model, self.optimizer.copy_to(&plain))
    }

    /// Drops the gradients of a step that was not taken.
    pub fn forget_gradients(&mut self) {
        self.gradients = GradientsAccumulator::new();
    }

    /// Adds the gradients of a loss, `[1]`, to those of the step.
    pub fn add_gradients(&mut self, loss: Tensor<1>) {
        self.gradients.accumulate(&self.model, GradientsParams::from_grads(loss.backward(), &self.model));
    }

    /// The gradients of the step, averaged over the devices. A parameter without gradient on one device counts as zero there; one without
    /// gradient on all of them has none.
    pub fn take_gradients(&mut self, group: &DeviceGroup) -> GradientsParams {
        let own = self.gradients.grads();
        if group.others.is_empty() {
            return own;
        }
        let mut flat = Flatten { gradients: &own, values: Vec::new(), used: Vec::new() };
        self.model.visit(&mut flat);
        if flat.values.is_empty() {
            return own;
        }
        let used = (group.mean)(Tensor::from_floats(flat.used.as_slice(), &self.device.clone().inner()));
        let used = used.into_data().iter::<f32>().map(|share| share > 0.0).collect::<Vec<_>>();
        // One collective operation on all gradients is faster than hundreds of small ones.
        let mean = (group.mean)(Tensor::cat(flat.values, 0));
        let mut parts = Unflatten { mean, used: used.into_iter(), begin: 0, gradients: GradientsParams::new() };
        self.model.visit(&mut parts);
        parts.gradients
    }

    /// Takes a step. `norm` is the norm of the averaged gradients; all devices use one number, so all weights stay equal.
    pub fn step(&mut self, gradients: GradientsParams, norm: f64, lr: f64) {
        self.model = self.optimizer.step(self.model.clone(), gradients, norm, lr);
    }
}

/// Concatenates the gradients of all trainable parameters, in the order of the model.
struct Flatten<'a> {
    gradients: &'a GradientsParams,
    values: Vec<Tensor<1>>,
    /// 1 for a parameter with a gradient, 0 for one without.
    used: Vec<f32>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let gradient = self.gradients.get::<D>(param.id);
        self.used.push(if gradient.is_some() { 1.0 } else { 0.0 });
        let gradient = gradient.unwrap_or_else(|| param.val().inner().zeros_like());
        self.values.push(gradient.reshape([param.shape().num_elements()]));
    }
}

/// Splits the concatenated gradients; the inverse of [`Flatten`].
struct Unflatten {
    mean: Tensor<1>,
    used: std::vec::IntoIter<bool>,
    begin: usize,
    gradients: GradientsParams,
}

impl ModuleVisitor for Unflatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let shape = param.shape();
        let end = self.begin + shape.num_elements();
        if self.used.next() == Some(true) {
            self.gradients.register(param.id, self.mean.clone().narrow(0, self.begin, end - self.begin).reshape::<D, _>(shape));
        }
        self.begin = end;
    }
}

/// A job for the thread of a device.
type Job<'a, M> = Box<dyn FnOnce(&mut Replica<M>) + Send + 'a>;

/// The devices other than the first, each with a replica in its own thread. The threads live as long as the run because CubeCL gives every
/// thread its own stream and memory.
pub struct Others<'a, M>(Vec<Sender<Job<'a, M>>>);

impl<'a, M: Module + 'a> Others<'a, M> {
    /// Copies the first replica to the other devices. The threads end when this is dropped.
    pub fn start<'scope>(scope: &'scope Scope<'scope, 'a>, group: &DeviceGroup, first: &Replica<M>) -> Self {
        let start = |device: &Device| {
            let mut replica = first.copy_to(device);
            let (sender, jobs) = channel::<Job<'a, M>>();
            scope.spawn(move || jobs.into_iter().for_each(|job| job(&mut replica)));
            sender
        };
        Self(group.others.iter().map(start).collect())
    }

    /// Runs `work` on all devices at the same time, each with its own input; the first device's on this thread. Outputs are in the order of
    /// the devices.
    ///
    /// # Errors
    /// When the work panics on one of the other devices.
    pub fn each<I, O>(
        &self,
        first: &mut Replica<M>,
        inputs: Vec<I>,
        work: impl Fn(&mut Replica<M>, I) -> O + Copy + Send + 'a,
    ) -> Result<Vec<O>, DeviceError>
    where
        I: Send + 'a,
        O: Send + 'a,
    {
        let mut inputs = inputs.into_iter();
        let Some(own) = inputs.next() else { return Ok(Vec::new()) };
        let mut answers = Vec::new();
        for (thread, input) in self.0.iter().zip(inputs) {
            let (sender, answer) = channel();
            let job = move |replica: &mut Replica<M>| {
                let output = catch_unwind(AssertUnwindSafe(|| work(replica, input)));
                // The receiver is gone when the first device's own work has failed.
                drop(sender.send(output.map_err(|panic| panic_message(&*panic))));
            };
            // The threads receive until their senders are dropped with `self`.
            drop(thread.send(Box::new(job)));
            answers.push(answer);
        }
        let mut outputs = vec![work(first, own)];
        for (number, answer) in answers.into_iter().enumerate() {
            let output = answer.recv().unwrap_or_else(|_| Err("its thread has ended".to_owned()));
            outputs.push(output.map_err(|reason| DeviceError::Replica { number: number + 2, reason })?);
        }
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests;
