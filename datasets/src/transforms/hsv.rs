//! OpenCV's conversions between RGB and HSV, for 8-bit images and for single float pixels.
//!
//! `cv2.cvtColor` converts an 8-bit image back from HSV in blocks of 32 columns, which truncate the levels; the last `width % 32` columns
//! of a row are rounded. Both are reproduced here, as OpenCV computes them on processors with AVX2 and FMA. The test
//! `tests/parity_photometric` compares all colours.

use image::RgbImage;

/// Columns that OpenCV converts at once: 32 bytes of an AVX2 register.
const BLOCK: usize = 32;

/// Replaces RGB by HSV, as `cv2.cvtColor(image, cv2.COLOR_RGB2HSV)`: hue 0 to 179 in steps of two degrees, saturation and value 0 to 255.
pub fn rgb_to_hsv(image: &mut RgbImage) {
    let tables = Reciprocals::new();
    image.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = tables.to_hsv(*pixel));
}

/// Replaces HSV by RGB, as `cv2.cvtColor(image, cv2.COLOR_HSV2RGB)`.
pub fn hsv_to_rgb(image: &mut RgbImage) {
    let width = image.width() as usize;
    let whole = width - width % BLOCK;
    for row in image.chunks_exact_mut((3 * width).max(1)) {
        for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let levels = from_hsv(*pixel).map(|share| share * 255.0);
            // The cast clips to 0 to 255.
            *pixel = if x < whole { levels.map(|level| level as u8) } else { levels.map(|level| level.round_ties_even() as u8) };
        }
    }
}

/// Divisions are products with 12 fractional bits.
const SHIFT: u32 = 12;

/// OpenCV's tables `sdiv_table` and `hdiv_table180`.
struct Reciprocals {
    saturation: [i32; 256],
    hue: [i32; 256],
}

impl Reciprocals {
    fn new() -> Self {
        let table = |numerator: f64| {
            std::array::from_fn(|by| match by {
                0 => 0,
                _ => (numerator * f64::from(1 << SHIFT) / by as f64).round_ties_even() as i32,
            })
        };
        Self { saturation: table(255.0), hue: table(180.0 / 6.0) }
    }

    fn to_hsv(&self, rgb: [u8; 3]) -> [u8; 3] {
        let [r, g, b] = rgb.map(i32::from);
        let v = r.max(g).max(b);
        let diff = v - r.min(g).min(b);
        let shifted = |product: i32| (product + (1 << (SHIFT - 1))) >> SHIFT;
        let sector = if v == r {
            g - b
        } else if v == g {
            b - r + 2 * diff
        } else {
            r - g + 4 * diff
        };
        let h = shifted(sector * self.hue[diff as usize]);
        let s = shifted(diff * self.saturation[v as usize]);
        [if h < 0 { h + 180 } else { h } as u8, s as u8, v as u8]
    }
}

/// 8-bit HSV to RGB shares of 0 to 1. OpenCV's compiler contracts `1 - s * f` into a fused multiplication and addition, which is a product
/// in float64 rounded once for these arguments.
fn from_hsv([h, s, v]: [u8; 3]) -> [f32; 3] {
    let (h, s, v) = (f32::from(h) * (6.0 / 180.0), f32::from(s) * (1.0 / 255.0), f32::from(v) * (1.0 / 255.0));
    let sector = h.floor();
    let f = h - sector;
    let less = |part: f32| (1.0 - f64::from(s) * f64::from(part)) as f32;
    sectors(sector as i32, [v, v * (1.0 - s), v * less(f), v * less(1.0 - f)])
}

/// The channels in one of the six sectors of the hue, from the levels v, p, q and t of the hexcone model.
fn sectors(sector: i32, [v, p, q, t]: [f32; 4]) -> [f32; 3] {
    match sector.rem_euclid(6) {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// A float RGB pixel to hue in degrees (0 to 360), saturation (0 to 1) and value (of the range of the channels), as `cv2.cvtColor` of a
/// float32 image. Channels may be negative or beyond white.
pub(super) fn float_rgb_to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let v = r.max(g).max(b);
    let diff = v - r.min(g).min(b);
    let s = diff / (v.abs() + f32::EPSILON);
    let degrees = (60.0 / (f64::from(diff) + f64::from(f32::EPSILON))) as f32;
    let h = if v == r {
        (g - b) * degrees
    } else if v == g {
        (b - r) * degrees + 120.0
    } else {
        (r - g) * degrees + 240.0
    };
    [if h < 0.0 { h + 360.0 } else { h }, s, v]
}

/// The inverse of [`float_rgb_to_hsv`].
pub(super) fn float_hsv_to_rgb([h, s, v]: [f32; 3]) -> [f32; 3] {
    let h = h * (6.0 / 360.0);
    let sector = h.floor();
    let f = h - sector;
    sectors(sector as i32, [v, v * (1.0 - s), v * (1.0 - s * f), v * (1.0 - s * (1.0 - f))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours_equal_opencv() {
        // cv2.cvtColor(.., COLOR_RGB2HSV) of the primaries, a grey, and two mixtures.
        for (rgb, hsv) in [
            ([255, 0, 0], [0, 255, 255]),
            ([0, 255, 0], [60, 255, 255]),
            ([0, 0, 255], [120, 255, 255]),
            ([77, 77, 77], [0, 0, 77]),
            ([255, 255, 0], [30, 255, 255]),
            ([0, 128, 128], [90, 255, 128]),
        ] {
            assert_eq!(Reciprocals::new().to_hsv(rgb), hsv, "{rgb:?}");
        }
    }

    #[test]
    fn the_fused_multiplication_is_a_rounded_float64_product() {
        for h in 0..180_u8 {
            let h = f32::from(h) * (6.0 / 180.0);
            let f = h - h.floor();
            for s in (0..=255_u8).map(|s| f32::from(s) * (1.0 / 255.0)) {
                for part in [f, 1.0 - f] {
                    assert_eq!((1.0 - f64::from(s) * f64::from(part)) as f32, (-s).mul_add(part, 1.0));
                }
            }
        }
    }

    #[test]
    fn float_pixels_survive_a_round_trip() {
        for rgb in [[0.0, 0.0, 0.0], [12.5, 200.0, 3.0], [-20.0, -31.0, 4.0], [280.0, 100.0, 281.5], [7.0, 7.0, 7.0]] {
            let back = float_hsv_to_rgb(float_rgb_to_hsv(rgb));
            assert!(rgb.iter().zip(back).all(|(a, b)| (a - b).abs() < 1e-3), "{rgb:?} became {back:?}");
        }
    }
}
