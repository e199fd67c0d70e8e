//! Parses the official mini-language for the function of SS2D.
//!
//! `<base>[_on<norm>][_nozact | _noz][_oact][_no32]`, e.g. `v05_noz` (every published VMamba) or `v052dc_noz_oact`. The official code
//! strips the postfixes in one fixed order and ignores unknown ones. Here every order is accepted, and unknown, repeated or contradictory
//! postfixes are errors that list the supported ones.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vision_ops::Route;

use super::config::ConfigError;
use super::init::GROUPS;

/// The function of SS2D between its two projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ForwardType {
    /// The generation of the official code. It does not change the results.
    pub generation: Generation,
    /// The scan routes.
    pub scan_pattern: ScanPattern,
    /// The multiplicative branch `z`.
    pub gate: Gate,
    /// Norm of the merged scan.
    pub out_norm: OutNormKind,
    /// Activation after the norm.
    pub out_activation: OutActivation,
}

/// Generations of the official forward function. They differ in kernels and number formats, not in mathematics. The generation decides how
/// the FLOPs of the projections are counted, and v0 fixes some other options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// `v0`, the vanilla model: always a gate, a 3x3 convolution with bias, projections as einsum.
    V0,
    /// `v01` to `v04`: projections as einsum. Written as `v04`.
    V04,
    /// `v05` and its scan patterns: projections as grouped 1-D convolutions.
    V05,
}

/// The order in which the scans visit pixels. There are always four groups of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScanPattern {
    /// Rows, columns, and both reversed.
    Cross,
    /// Rows four times (`v051d`).
    Unidirectional,
    /// Rows twice and reversed rows twice (`v052d`).
    Bidirectional,
    /// Each row as a sequence, in both directions, then each column (`v052dc`).
    Cascade,
}

impl ScanPattern {
    /// The route of each group of parameters; none for the cascade, which scans each line of the image as a sequence.
    pub fn routes(self) -> Option<[Route; GROUPS]> {
        match self {
            Self::Cross => Some(Route::CROSS),
            Self::Unidirectional => Some([Route::Rows; GROUPS]),
            Self::Bidirectional => Some([Route::Rows, Route::Rows, Route::RowsReversed, Route::RowsReversed]),
            Self::Cascade => None,
        }
    }
}

/// The multiplicative branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// No branch (`_noz`).
    None,
    /// `y * act(z)`.
    Activated,
    /// `y * z` (`_nozact`).
    Plain,
}

/// Norm of the merged scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutNormKind {
    /// LayerNorm over channels.
    LayerNorm,
    /// No norm (`_onnone`).
    None,
    /// Depthwise 3x3 convolution without bias (`_ondwconv3`).
    DwConv3,
    /// LayerNorm, then a depthwise 3x3 convolution without bias (`_oncnorm`).
    CNorm,
    /// Softmax over the positions, per channel (`_onsoftmax`).
    Softmax,
    /// Sigmoid (`_onsigmoid`).
    Sigmoid,
}

/// Activation after the output norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutActivation {
    /// None.
    None,
    /// GELU (`_oact`).
    Gelu,
}

/// The list in a parse error.
const SUPPORTED: &str = "v0, or one of v01 v02 v03 v04 v05 v051d v052d v052dc with postfixes _noz or _nozact, _oact, _no32, and one of \
                         _onnone _ondwconv3 _oncnorm _onsoftmax _onsigmoid";

const OUT_NORMS: [(OutNormKind, &str); 5] = [
    (OutNormKind::None, "onnone"),
    (OutNormKind::DwConv3, "ondwconv3"),
    (OutNormKind::CNorm, "oncnorm"),
    (OutNormKind::Softmax, "onsoftmax"),
    (OutNormKind::Sigmoid, "onsigmoid"),
];

impl ForwardType {
    /// `v0`: the vanilla model.
    pub const VANILLA: Self = Self {
        generation: Generation::V0,
        scan_pattern: ScanPattern::Cross,
        gate: Gate::Activated,
        out_norm: OutNormKind::LayerNorm,
        out_activation: OutActivation::None,
    };

    /// `v05_noz`: every published VMamba but the vanilla ones.
    pub const V05_NOZ: Self = Self { generation: Generation::V05, gate: Gate::None, ..Self::VANILLA };

    /// Whether this is `v0`, whose official code fixes activation, convolution and initialisation.
    pub fn is_vanilla(self) -> bool {
        self.generation == Generation::V0
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ForwardType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ForwardType".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "string", "description": SUPPORTED }] })
    }
}

impl FromStr for ForwardType {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refuse = |problem: String| ConfigError::ForwardType { found: text.to_owned(), problem, supported: SUPPORTED.to_owned() };
        let mut words = text.split('_');
        let base = words.next().unwrap_or_default();
        let (generation, scan_pattern) = match base {
            "v0" => (Generation::V0, ScanPattern::Cross),
            "v01" | "v02" | "v03" | "v04" => (Generation::V04, ScanPattern::Cross),
            "v05" => (Generation::V05, ScanPattern::Cross),
            "v051d" => (Generation::V05, ScanPattern::Unidirectional),
            "v052d" => (Generation::V05, ScanPattern::Bidirectional),
            "v052dc" => (Generation::V05, ScanPattern::Cascade),
            "v2" => {
                return Err(refuse(
                    "the official `v2` asks for a scan backend that its own code rejects, so no such model can run; the vanilla \
                     configurations that leave it as the default mean `v0`"
                        .to_owned(),
                ));
            }
            other => return Err(refuse(format!("unknown base `{other}`"))),
        };
        let mut parsed = Self { generation, scan_pattern, ..Self::VANILLA };
        let (mut gate, mut out_norm, mut out_activation, mut no32) = (None, None, None, false);
        for word in words {
            let again = match word {
                "noz" => gate.replace(Gate::None).is_some(),
                "nozact" => gate.replace(Gate::Plain).is_some(),
                "oact" => out_activation.replace(OutActivation::Gelu).is_some(),
                // Disables a cast to float32, which has an effect only under half-precision autocast.
                "no32" => std::mem::replace(&mut no32, true),
                _ => match OUT_NORMS.iter().find(|(_, name)| *name == word) {
                    Some((kind, _)) => out_norm.replace(*kind).is_some(),
                    None => return Err(refuse(format!("unknown postfix `_{word}`"))),
                },
            };
            if again {
                return Err(refuse(format!("postfix `_{word}` repeats or contradicts another")));
            }
        }
        if parsed.is_vanilla() && text != base {
            return Err(refuse("`v0` takes no postfix".to_owned()));
        }
        parsed.gate = gate.unwrap_or(parsed.gate);
        parsed.out_norm = out_norm.unwrap_or(parsed.out_norm);
        parsed.out_activation = out_activation.unwrap_or(parsed.out_activation);
        Ok(parsed)
    }
}

impl fmt::Display for ForwardType {
    /// Writes the postfixes in the order that the official code requires.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.generation, self.scan_pattern) {
            (Generation::V0, _) => return f.write_str("v0"),
            (Generation::V04, _) => "v04",
            (Generation::V05, ScanPattern::Cross) => "v05",
            (Generation::V05, ScanPattern::Unidirectional) => "v051d",
            (Generation::V05, ScanPattern::Bidirectional) => "v052d",
            (Generation::V05, ScanPattern::Cascade) => "v052dc",
        })?;
        if let Some((_, name)) = OUT_NORMS.iter().find(|(kind, _)| *kind == self.out_norm) {
            write!(f, "_{name}")?;
        }
        f.write_str(match self.gate {
            Gate::None => "_noz",
            Gate::Plain => "_nozact",
            Gate::Activated => "",
        })?;
        f.write_str(match self.out_activation {
            OutActivation::Gelu => "_oact",
            OutActivation::None => "",
        })
    }
}

impl TryFrom<String> for ForwardType {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<ForwardType> for String {
    fn from(value: ForwardType) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_string_survives_the_round_trip() {
        for text in [
            "v0",
            "v04_noz",
            "v05",
            "v05_noz",
            "v05_nozact",
            "v05_noz_oact",
            "v051d_noz",
            "v052d_noz",
            "v052dc_noz_oact",
            "v05_onnone_noz",
            "v05_ondwconv3_noz",
            "v05_oncnorm_noz",
            "v05_onsoftmax_noz",
            "v05_onsigmoid_noz",
        ] {
            assert_eq!(text.parse::<ForwardType>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn postfixes_are_understood_in_any_order() {
        let expected: ForwardType = "v05_oncnorm_noz_oact".parse().unwrap();
        for text in ["v05_noz_oact_oncnorm", "v05_oact_oncnorm_noz", "v05_oncnorm_noz_oact_no32"] {
            assert_eq!(text.parse::<ForwardType>().unwrap(), expected);
        }
    }

    #[test]
    fn what_does_not_exist_is_refused_with_a_list() {
        for text in ["", "v2", "v3_noz", "xv1a", "m0", "v05_nozz", "v05_noz_noz", "v05_noz_nozact", "v05_onnone_oncnorm", "v0_noz", "v05_"]
        {
            let error = text.parse::<ForwardType>().unwrap_err().to_string();
            assert!(error.contains("v052dc") && error.contains("_ondwconv3"), "{text}: {error}");
        }
        assert!("v2_noz".parse::<ForwardType>().unwrap_err().to_string().contains("`v0`"));
    }
}
