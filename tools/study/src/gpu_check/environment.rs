//! The header of the report: device, driver, toolkit, commit.

use std::path::Path;

use burn::prelude::*;
use serde_json::{Value, json};
use vmamba_report::tables::Table;
use vmamba_train::DeviceChoice;

use crate::measure::{device_name, nvidia_smi};

/// The commit of the sources; `tools/gpu_check.sh` sets it at build time.
const COMMIT: Option<&str> = option_env!("GPU_CHECK_COMMIT");

/// The header of the report.
#[derive(Clone, Debug)]
pub struct Environment {
    lines: Vec<(&'static str, String)>,
}

impl Environment {
    /// Describes the open device, its driver and toolkit.
    pub fn of(choice: DeviceChoice, device: &Device) -> Self {
        let unknown = || "unknown".to_owned();
        let index = match choice {
            DeviceChoice::Cuda(index) => index,
            _ => 0,
        };
        let driver = match choice {
            DeviceChoice::Cpu => "-".to_owned(),
            _ => nvidia_smi("name,driver_version,memory.total", index).unwrap_or_else(|| "unknown (no nvidia-smi)".to_owned()),
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

/// The path of a library that this process has loaded; it contains the version.
fn loaded_library(name: &str) -> Option<String> {
    let maps = vmamba_files::read_text(Path::new("/proc/self/maps")).ok()?;
    maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains(name)).map(str::to_owned)
}

/// The version of the CUDA toolkit that provides the headers.
fn toolkit_version() -> Option<String> {
    let folder = std::env::var("CUDA_PATH").unwrap_or_else(|_| "/usr/local/cuda".to_owned());
    let text = vmamba_files::read_text(&Path::new(&folder).join("version.json")).ok()?;
    let versions: Value = serde_json::from_str(&text).ok()?;
    versions["cuda"]["version"].as_str().map(|version| format!("toolkit {version}"))
}
