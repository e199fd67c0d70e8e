//! Colour maps for heat maps.

/// A colour map, linear between eleven colours at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourMap {
    /// From dark red over pale yellow to dark green (ColorBrewer's RdYlGn).
    RedYellowGreen,
    /// The upper half of [`ColourMap::RedYellowGreen`], as in the published figures of effective receptive fields: they centre that map at 0
    /// and have no negative values.
    YellowGreen,
    /// From dark blue to yellow, perceptually uniform (matplotlib).
    Viridis,
    /// From black over red to pale yellow, perceptually uniform (matplotlib).
    Inferno,
}

const RED_YELLOW_GREEN: [[u8; 3]; 11] = [
    [165, 0, 38],
    [215, 48, 39],
    [244, 109, 67],
    [253, 174, 97],
    [254, 224, 139],
    [255, 255, 191],
    [217, 239, 139],
    [166, 217, 106],
    [102, 189, 99],
    [26, 152, 80],
    [0, 104, 55],
];

const VIRIDIS: [[u8; 3]; 11] = [
    [68, 1, 84],
    [72, 36, 117],
    [65, 68, 135],
    [53, 95, 141],
    [42, 120, 142],
    [33, 145, 140],
    [34, 168, 132],
    [68, 191, 112],
    [122, 209, 81],
    [189, 223, 38],
    [253, 231, 37],
];

const INFERNO: [[u8; 3]; 11] = [
    [0, 0, 4],
    [22, 11, 57],
    [66, 10, 104],
    [106, 23, 110],
    [147, 38, 103],
    [188, 55, 84],
    [221, 81, 58],
    [243, 120, 25],
    [252, 165, 10],
    [246, 215, 70],
    [252, 255, 164],
];

impl ColourMap {
    /// The colour of a value from 0 to 1. Values outside are clamped; NaN is grey.
    pub fn colour(self, value: f32) -> [u8; 3] {
        if value.is_nan() {
            return [150; 3];
        }
        let value = value.clamp(0.0, 1.0);
        let (table, place) = match self {
            Self::RedYellowGreen => (&RED_YELLOW_GREEN, value * 10.0),
            Self::YellowGreen => (&RED_YELLOW_GREEN, 5.0 + value * 5.0),
            Self::Viridis => (&VIRIDIS, value * 10.0),
            Self::Inferno => (&INFERNO, value * 10.0),
        };
        let below = (place as usize).min(9);
        let share = place - below as f32;
        let mut colour = [0; 3];
        for (channel, out) in colour.iter_mut().enumerate() {
            let (low, high) = (f32::from(table[below][channel]), f32::from(table[below + 1][channel]));
            *out = (low + (high - low) * share).round() as u8;
        }
        colour
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_middles_and_nan_have_their_colours() {
        assert_eq!(ColourMap::RedYellowGreen.colour(0.0), [165, 0, 38]);
        assert_eq!(ColourMap::RedYellowGreen.colour(0.5), [255, 255, 191]);
        assert_eq!(ColourMap::YellowGreen.colour(0.0), [255, 255, 191]);
        assert_eq!(ColourMap::YellowGreen.colour(7.0), [0, 104, 55]);
        assert_eq!(ColourMap::Inferno.colour(-1.0), [0, 0, 4]);
        // Halfway between the first two colours.
        assert_eq!(ColourMap::Viridis.colour(0.05), [70, 19, 101]);
        assert_eq!(ColourMap::Viridis.colour(f32::NAN), [150; 3]);
    }

    #[test]
    fn perceptual_maps_increase_in_lightness() {
        for map in [ColourMap::Viridis, ColourMap::Inferno] {
            let lightness = |value: f32| {
                let [red, green, blue] = map.colour(value).map(f32::from);
                0.299 * red + 0.587 * green + 0.114 * blue
            };
            for step in 0..50 {
                assert!(lightness((step + 1) as f32 / 50.0) > lightness(step as f32 / 50.0), "{map:?} at {step}");
            }
        }
    }
}
