//! Surfaces of things and stuff: a pattern that blends two colours.

use super::random::{SceneRng, smooth_noise};

/// Red, green and blue in 0 to 255, in `f32` until the image is exposed.
pub(super) type Colour = [f32; 3];

/// How the two colours of a surface are blended; lengths are in pixels on the axes of the thing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pattern {
    /// One colour.
    Plain,
    /// From the first colour at `(x, y)` to the second at a distance of `reach`, as on a ball.
    Shaded { x: f32, y: f32, reach: f32 },
    /// A chessboard with fields of `size`.
    Checks { size: f32 },
    /// Stripes along the second axis, each `size` wide.
    Stripes { size: f32 },
    /// Round dots, one in each cell of `size`.
    Dots { size: f32 },
    /// Smooth noise with cells of `size`.
    Clouds { size: f32, salt: u32 },
}

impl Pattern {
    /// Share of the second colour, 0 to 1, at the point `(x, y)` on the axes of the thing.
    #[inline]
    pub(super) fn mix(&self, x: f32, y: f32) -> f32 {
        match *self {
            Self::Plain => 0.0,
            Self::Shaded { x: cx, y: cy, reach } => {
                let (dx, dy) = (x - cx, y - cy);
                ((dx * dx + dy * dy).sqrt() / reach).min(1.0)
            }
            Self::Checks { size } => f32::from(((x / size).floor() as i32 + (y / size).floor() as i32) & 1 == 1),
            Self::Stripes { size } => f32::from((x / size).floor() as i32 & 1 == 1),
            Self::Dots { size } => {
                let (u, v) = (x / size, y / size);
                let (u, v) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
                // The soft border of a fifth of the radius keeps small dots round.
                ((0.36 - (u * u + v * v).sqrt()) / 0.08 + 0.5).clamp(0.0, 1.0)
            }
            Self::Clouds { size, salt } => smooth_noise(x / size, y / size, salt),
        }
    }
}

/// A pattern with its two colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surface {
    pub(super) pattern: Pattern,
    pub(super) first: Colour,
    pub(super) second: Colour,
}

impl Surface {
    /// Colour at the point `(x, y)` on the axes of the thing.
    #[inline]
    pub(super) fn colour(&self, x: f32, y: f32) -> Colour {
        blend(self.first, self.second, self.pattern.mix(x, y))
    }
}

/// Linear interpolation: `a` for `t = 0`, `b` for `t = 1`.
#[inline]
pub(super) fn blend(a: Colour, b: Colour, t: f32) -> Colour {
    [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]
}

/// A colour from its hue in turns (any real number), and its saturation and value in 0 to 1.
pub(super) fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    let channel = |offset: f32| {
        let h = hue + offset;
        let h = (h - h.floor()) * 6.0;
        // A trapezoid: up over one sixth, full over two, down over one, zero over two.
        let on = ((h - 3.0).abs() - 1.0).clamp(0.0, 1.0);
        255.0 * value * (1.0 - saturation * (1.0 - on))
    };
    [channel(0.0), channel(2.0 / 3.0), channel(1.0 / 3.0)]
}

/// A hue within a twentieth of a turn of `centre`, or, in one of five draws, any hue: colour helps to tell the classes apart but is not
/// enough.
pub(super) fn family_hue(centre: f32, rng: &mut SceneRng) -> f32 {
    let near = centre + rng.between(-0.05, 0.05);
    let any = rng.between(0.0, 1.0);
    if rng.chance(20) { any } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsv_gives_the_primary_colours() {
        let close = |a: Colour, b: Colour| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 0.1);
        assert!(close(hsv(0.0, 1.0, 1.0), [255.0, 0.0, 0.0]));
        assert!(close(hsv(1.0 / 3.0, 1.0, 1.0), [0.0, 255.0, 0.0]));
        assert!(close(hsv(2.0 / 3.0, 1.0, 1.0), [0.0, 0.0, 255.0]));
        assert!(close(hsv(0.4, 0.0, 0.5), [127.5; 3]));
    }

    #[test]
    fn checks_and_stripes_alternate() {
        let checks = Pattern::Checks { size: 2.0 };
        assert_eq!([checks.mix(1.0, 1.0), checks.mix(3.0, 1.0), checks.mix(3.0, 3.0), checks.mix(-1.0, 1.0)], [0.0, 1.0, 0.0, 1.0]);
        let stripes = Pattern::Stripes { size: 2.0 };
        assert_eq!([stripes.mix(1.0, 9.0), stripes.mix(3.0, 9.0), stripes.mix(-1.0, 0.0)], [0.0, 1.0, 1.0]);
    }
}
