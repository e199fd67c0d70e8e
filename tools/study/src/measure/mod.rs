//! Measures speed and memory of networks, for every study that needs them.
//!
//! ```text
//! Task, Subject: model, work, image size, batch, precision, device
//!   └─ network: the model on random images, one call a run
//!        └─ timing: warm-up, rounds of all contenders in turns ──> Rounds (seconds)
//!        └─ process, allocator, device: resident memory, allocated bytes, memory of a GPU's allocator ──> Usage (bytes)
//! request: speed or memory of a Subject in this process, or in a child process (child)
//! peers: PyTorch's networks in a Python worker, as contenders
//! ```

pub mod allocator;
mod child;
mod device;
mod network;
mod peers;
mod process;
mod request;
mod task;
mod timing;

pub use device::{PoolPeak, device_name, gpu_memory_used, nvidia_smi, pool_peak};
pub use network::{CLASSES, Network};
pub use peers::{Peers, Versions};
pub use process::{Resident, cpu_seconds, resident};
pub(crate) use request::pool_of;
pub use request::{Begin, Measured, Request, Usage, memory, memory_apart, speed, speed_apart};
pub(crate) use task::threads_text;
pub use task::{Purpose, Subject, Task, Work};
pub use timing::{Contender, Limits, Protocol, Rounds, Timing, in_turns, min_and_median, on_device};
