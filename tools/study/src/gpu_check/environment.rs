//! Where it ran and what ran.

use std::path::Path;
use std::process::Command;

use burn::prelude::*;
use serde_json::{Value, json};

use vmamba_report::tables::Table;
use vmamba_train::device::DeviceChoice;

/// The commit of the sources, where the build names it (`tools/gpu_check.sh` does).
const COMMIT: Option<&str> = option_env!("GPU_CHECK_COMMIT");

/// The header of the report.
#[derive(Clone, Debug)]
pub struct Environment {
    lines: Vec<(&'static str, String)>,
}

impl Environment {
    /// Looks at the open device, the driver and the toolkit.
    pub fn of(choice: DeviceChoice, device: &Device) -> Self {
        let unknown = || "unknown".to_owned();
        let index = match choice {
            DeviceChoice::Cuda(index) => index,
            _ => 0,
        };
        let driver = match choice {
            DeviceChoice::Cpu => "-".to_owned(),
            _ => nvidia_smi("name,driver_version,memory.total", index).unwrap_or_else(|| "unknown (nvidia-smi is not there)".to_owned()),
        };
        let toolkit = match choice {
            DeviceChoice::Cuda(_) => loaded_library("libnvrtc.so").or_else(toolkit_version).unwrap_or_else(unknown),
            _ => "-".to_owned(),
        };
        let command: Vec<String> = std::env::args().collect();
        let lines = vec![
            ("device", format!("{choice}: {}", device_name(choice, device).unwrap_or_else(unknown))),
            ("nvidia-smi: name, driver, memory", driver),
            ("NVRTC", toolkit),
            ("commit", COMMIT.map_or_else(unknown, str::to_owned)),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("command", command.join(" ")),
        ];
        Self { lines }
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(["", "value"]);
        self.lines.iter().for_each(|(name, value)| table.push([(*name).into(), value.as_str().into()]));
        table
    }

    pub(super) fn json(&self) -> Value {
        self.lines.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
    }
}

/// What the processor or the GPU calls itself.
pub(crate) fn device_name(choice: DeviceChoice, device: &Device) -> Option<String> {
    if choice == DeviceChoice::Cpu {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let name = text.lines().find(|line| line.starts_with("model name"))?;
        return name.split_once(':').map(|(_, name)| name.trim().to_owned());
    }
    gpu_name(device)
}

#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn gpu_name(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

#[cfg(not(any(feature = "cuda", feature = "vulkan")))]
fn gpu_name(_device: &Device) -> Option<String> {
    None
}

fn nvidia_smi(fields: &str, index: usize) -> Option<String> {
    let (fields, index) = (format!("--query-gpu={fields}"), format!("--id={index}"));
    let output = Command::new("nvidia-smi").args([fields.as_str(), "--format=csv,noheader,nounits", &index]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Bytes in use on an NVIDIA GPU, by `nvidia-smi`.
pub(super) fn gpu_memory_used(index: usize) -> Option<u64> {
    nvidia_smi("memory.used", index)?.parse::<u64>().ok().map(|mib| mib << 20)
}

/// The file of a library that this process has loaded; its name carries the version.
fn loaded_library(name: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains(name)).map(str::to_owned)
}

/// The version of the CUDA toolkit whose headers are used.
fn toolkit_version() -> Option<String> {
    let folder = std::env::var("CUDA_PATH").unwrap_or_else(|_| "/usr/local/cuda".to_owned());
    let text = std::fs::read_to_string(Path::new(&folder).join("version.json")).ok()?;
    let versions: Value = serde_json::from_str(&text).ok()?;
    versions["cuda"]["version"].as_str().map(|version| format!("toolkit {version}"))
}
