//! Training of any Burn model. A [`Recipe`] gives the batches, the loss and the validation; a [`Trainer`] is the loop; progress bars, logs and
//! checkpoints on disk are [`Observer`]s. The crate itself prints nothing and writes no file.
//!
//! ```text
//! Recipe (batches, loss, validate) ──┐
//! model ─────────────────────────────┼─> Trainer ── step ──> Observer (console, log, curves, run folder)
//! TrainConfig (optimizer, schedule) ─┘      ├─ optimizer (AdamW, SGD), schedule, ema, freeze
//!                                           ├─ data_parallel: replicas on further devices
//!                                           └─ guard: the origin of a loss or gradient that is not finite
//! ```
//!
//! Everything random in a step is drawn from `(seed, iteration)`, so a resumed run takes the same steps as an uninterrupted one, bit by bit
//! on the CPU.
//!
//! ```
//! use burn::module::Param;
//! use burn::prelude::*;
//! use vmamba_train::{BatchOrder, Batches, BoxError, KeyMap, OptimizerConfig, Recipe, Scalars, StepContext, StepLoss, Trainer};
//!
//! #[derive(Module, Debug)]
//! struct Line {
//!     slope: Param<Tensor<1>>,
//! }
//!
//! /// Fits `y = 3 x`.
//! struct Fit;
//!
//! impl Recipe for Fit {
//!     type Model = Line;
//!     type Batch = Vec<f32>;
//!
//!     fn samples(&self) -> usize {
//!         8
//!     }
//!
//!     fn batches(&self, order: BatchOrder) -> Batches<'_, Vec<f32>> {
//!         Box::new((order.first..).map(move |batch| Ok((0..order.batch_size).map(|i| ((batch as usize + i) % 8) as f32).collect())))
//!     }
//!
//!     fn loss(&self, model: &Line, batch: &Vec<f32>, context: &StepContext) -> StepLoss {
//!         let x = Tensor::<1>::from_floats(batch.as_slice(), &context.device);
//!         let error = x.clone() * model.slope.val() - x * 3.0;
//!         StepLoss { total: error.square().mean(), parts: Vec::new() }
//!     }
//!
//!     fn validate(&self, model: &Line, _device: &Device) -> Result<Scalars, BoxError> {
//!         let error = model.slope.val().into_scalar::<f32>() - 3.0;
//!         Ok(vec![("closeness".to_owned(), 1.0 / (1.0 + f64::from(error.abs())))])
//!     }
//!
//!     fn keys(&self) -> KeyMap {
//!         str::to_owned
//!     }
//! }
//!
//! # fn main() -> Result<(), vmamba_train::TrainError> {
//! let device = Device::flex();
//! let model = Line { slope: Param::from_tensor(Tensor::zeros([1], &device)) };
//! let mut trainer = Trainer::builder(Fit, model)
//!     .batch_size(4)
//!     .iterations(300)
//!     .optimizer(OptimizerConfig::adamw(0.1).weight_decay(0.0))
//!     .build(&device)?;
//! trainer.run()?;
//! assert!((trainer.best_model()?.slope.val().into_scalar::<f32>() - 3.0).abs() < 0.1);
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod data_parallel;
pub mod device;
mod ema;
mod error;
pub mod freeze;
pub mod guard;
pub mod observer;
pub mod optimizer;
pub mod parameters;
pub mod precision;
pub mod recipe;
pub mod schedule;
pub mod trainer;

pub use config::{Length, NonFinite, TrainConfig};
pub use data_parallel::DeviceGroup;
pub use device::{DeviceChoice, DeviceError};
pub use error::{BoxError, TrainError};
pub use guard::Incident;
pub use observer::{CheckpointKind, Observer, RunInfo, Snapshot, StepReport, ValidationReport};
pub use optimizer::{Algorithm, LayerDecay, OptimizerConfig};
pub use parameters::KeyMap;
pub use precision::Precision;
pub use recipe::{BatchOrder, Batches, Recipe, Scalars, StepContext, StepLoss};
pub use schedule::{Decay, ScheduleConfig, Unit};
pub use trainer::{Outcome, Trainer, TrainerBuilder};
