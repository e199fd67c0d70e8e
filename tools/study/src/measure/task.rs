//! What one run of a network computes.

use serde::{Deserialize, Serialize};
use vmamba::zoo::BackboneConfig;
use vmamba_train::Precision;

use crate::choice::chosen_by_name;
use crate::error::{Result, invalid};

/// Inference or training of a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The forward pass.
    Inference,
    /// A training step.
    Training,
}

impl Purpose {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inference, Self::Training];

    /// Its name on the command line, in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Training => "training",
        }
    }

    /// The work of a run. `update`: whether a training step ends with the optimizer's update.
    pub fn work(self, update: bool) -> Work {
        match self {
            Self::Inference => Work::Forward,
            Self::Training => Work::Train { update },
        }
    }
}

chosen_by_name!(Purpose, "task");

/// The work of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Forward pass of a classifier with 1000 classes.
    Forward,
    /// Forward pass of a classifier, cross-entropy loss and backward pass.
    Train {
        /// Whether AdamW updates the weights afterwards.
        update: bool,
    },
    /// UperNet with 512 channels and 150 classes; logits at stride 4.
    Segment,
    /// Mask R-CNN with 80 classes, 1000 proposals and up to 100 detections; pasted masks.
    Detect,
}

impl Work {
    /// Its name in requests to the Python worker and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Train { .. } => "train",
            Self::Segment => "segment",
            Self::Detect => "detect",
        }
    }
}

/// A run: work, input and resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What the network computes.
    pub work: Work,
    /// Height and width of the images in pixels.
    pub size: [usize; 2],
    /// Images of a batch.
    pub batch: usize,
    /// Type the network computes in.
    pub precision: Precision,
    /// CPU threads; `None` uses all cores.
    pub threads: Option<usize>,
}

impl Task {
    /// `forward, 224x224, batch 1, 2 threads`.
    pub fn name(&self) -> String {
        let Self { work, size: [height, width], batch, threads, .. } = *self;
        let work = match work {
            Work::Forward => "forward",
            Work::Train { .. } => "training step",
            Work::Segment => "UperNet",
            Work::Detect => "Mask R-CNN",
        };
        let threads = threads.map_or(String::new(), |threads| format!(", {}", threads_text(threads)));
        format!("{work}, {height}x{width}, batch {batch}{threads}")
    }

    /// Validates value ranges: at least one image and thread, and sides of at least 32 pixels.
    ///
    /// # Errors
    /// [`StudyError::Invalid`](crate::StudyError::Invalid) with the task.
    pub fn check(&self) -> Result<()> {
        if self.threads == Some(0) || self.batch == 0 || self.size.iter().any(|side| *side < 32) {
            return Err(invalid!("threads and batch must be at least 1 and the sides at least 32: {}", self.name()));
        }
        Ok(())
    }

    /// CPU threads of a run.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(cores)
    }
}

/// `1 thread`, `2 threads`.
pub(crate) fn threads_text(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// Number of CPU cores available to this process.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A model on a device with a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// The model.
    pub config: BackboneConfig,
    /// What it computes.
    pub task: Task,
    /// The device, as [`DeviceChoice`](vmamba_train::DeviceChoice) writes it: `cpu`, `cuda:0`.
    pub device: String,
}
