//! Paints a scene: stuff from back to front, then the things in z-order, then light and sensor noise.

use super::random::{SceneRng, direction, ease, hash, smooth_noise};
use super::shape::Shape;
use super::texture::{Colour, Pattern, Surface, blend, family_hue, hsv};
use super::{BALL, CRATE, GEM, GROUND, HILL, RING, SKY, STAR, SceneConfig};

/// The id of pixels without a thing.
pub(super) const NO_THING: u8 = u8::MAX;

/// Smallest share of a thing that later things must leave visible, and the number of places that are tried before a thing is left out.
const MIN_VISIBLE: f32 = 0.35;
const PLACEMENTS: u32 = 6;

/// A painted scene: image and maps, all row-major.
pub(super) struct Canvas {
    /// RGB bytes, `height * width * 3`.
    pub(super) rgb: Vec<u8>,
    /// Class of the stuff at every pixel, things ignored.
    pub(super) stuff: Vec<u8>,
    /// Index into `things` at every pixel, or [`NO_THING`].
    pub(super) thing: Vec<u8>,
    /// Classes of the things, from back to front.
    pub(super) things: Vec<u8>,
}

/// A thing with its position and rotation.
struct Thing {
    class: u8,
    shape: Shape,
    surface: Surface,
    x: f32,
    y: f32,
    cos: f32,
    sin: f32,
}

/// Paints scene `index`.
pub(super) fn paint(config: &SceneConfig, index: u64) -> Canvas {
    let mut rng = SceneRng::new(config.seed, index);
    let (width, height) = (config.width, config.height);
    let mut colours: Vec<Colour> = vec![[0.0; 3]; width * height];
    let mut stuff = vec![SKY; width * height];
    paint_stuff(&mut colours, &mut stuff, width, height, &mut rng);

    let mut thing = vec![NO_THING; width * height];
    let mut things = Vec::new();
    let wanted = rng.integer(config.min_objects, config.max_objects);
    let mut areas: Vec<usize> = Vec::new();
    // Later things are nearer: they hide earlier ones and tend to be lower in the image and larger.
    for order in 0..wanted {
        let depth = (order + 1) as f32 / wanted as f32;
        for _ in 0..PLACEMENTS {
            let candidate = Thing::draw(width, height, depth, &mut rng);
            let pixels = candidate.pixels(width, height);
            if hides_too_much(&pixels, &thing, &areas) {
                continue;
            }
            let id = things.len() as u8;
            candidate.paint(&pixels, id, width, &mut colours, &mut thing);
            areas.push(pixels.iter().filter(|p| p.distance <= 0.0).count());
            things.push(candidate.class);
            break;
        }
    }
    let rgb = expose(&colours, width, height, &mut rng);
    Canvas { rgb, stuff, thing, things }
}

/// Sky with clouds, in most scenes hills, and a grainy ground.
fn paint_stuff(colours: &mut [Colour], stuff: &mut [u8], width: usize, height: usize, rng: &mut SceneRng) {
    let side = width.min(height) as f32;
    let dusk = rng.chance(25);
    let zenith = if dusk { hsv(rng.between(0.66, 0.8), 0.45, rng.between(0.45, 0.7)) } else { hsv(rng.between(0.54, 0.63), 0.6, 0.85) };
    let low_sky = if dusk { hsv(rng.between(0.02, 0.1), 0.55, 0.95) } else { hsv(rng.between(0.5, 0.6), 0.15, 0.97) };
    let cloud_salt = rng.bits();
    let cloudiness = rng.between(0.0, 0.8);

    let horizon = rng.between(0.42, 0.66) * height as f32;
    let tilt = rng.between(-0.06, 0.06);
    let hills = rng.chance(85);
    let hill_height = rng.between(0.12, 0.3) * height as f32;
    let hill_cell = rng.between(0.3, 0.7) * side;
    let hill_salt = rng.bits();
    let hill_hue = family_hue(0.36, rng);
    let hill = Surface {
        pattern: Pattern::Clouds { size: side * rng.between(0.05, 0.08), salt: rng.bits() },
        first: hsv(hill_hue, 0.5, 0.25),
        second: hsv(hill_hue, 0.45, 0.55),
    };
    let ground_hue = family_hue(0.09, rng);
    let ground_value = rng.between(0.5, 0.75);
    let ground = Surface {
        pattern: Pattern::Clouds { size: 1.7, salt: rng.bits() },
        first: hsv(ground_hue, 0.35, ground_value - 0.28),
        second: hsv(ground_hue, 0.3, ground_value + 0.22),
    };

    let skyline: Vec<(f32, f32)> = (0..width)
        .map(|x| {
            let x = x as f32 + 0.5;
            let ground_line = horizon + tilt * (x - width as f32 * 0.5);
            let wave = 0.75 * smooth_noise(x / hill_cell, 0.5, hill_salt) + 0.25 * smooth_noise(3.0 * x / hill_cell, 7.5, hill_salt);
            (ground_line, if hills { ground_line - hill_height * (0.25 + 0.75 * wave) } else { ground_line })
        })
        .collect();
    for y in 0..height {
        let fy = y as f32 + 0.5;
        let sky = blend(zenith, low_sky, ease((fy / horizon).min(1.0)));
        for (x, &(ground_line, hill_line)) in skyline.iter().enumerate() {
            let fx = x as f32 + 0.5;
            let at = y * width + x;
            if fy >= ground_line {
                stuff[at] = GROUND;
                colours[at] = ground.colour(fx, fy);
            } else if fy >= hill_line {
                stuff[at] = HILL;
                colours[at] = hill.colour(fx, fy);
            } else {
                // Clouds are wider than they are high.
                let cloud = smooth_noise(fx / (0.32 * side), fy / (0.14 * side), cloud_salt);
                colours[at] = blend(sky, [248.0, 246.0, 243.0], cloudiness * ease(((cloud - 0.45) * 2.2).clamp(0.0, 1.0)));
            }
        }
    }
}

/// A pixel that a thing may cover: index, coordinates on the axes of the thing, and signed distance to its outline.
struct Pixel {
    at: usize,
    u: f32,
    v: f32,
    distance: f32,
}

impl Thing {
    /// Draws class, shape, position and surface. `depth` is near 0 at the back and 1 in front.
    fn draw(width: usize, height: usize, depth: f32, rng: &mut SceneRng) -> Self {
        let side = width.min(height) as f32;
        let class = [BALL, CRATE, STAR, RING, GEM][rng.below(5) as usize];
        let radius = side * rng.between(0.09, 0.17) * (0.85 + 0.55 * depth);
        // The size of a pattern follows the image, not the thing: a far thing shows fewer fields, but each stays visible.
        let field = (side * rng.between(0.034, 0.05)).max(3.0);
        let squash = rng.between(0.7, 1.0);
        let bright = rng.between(0.75, 1.0);
        let (shape, pattern, hue, second) = match class {
            BALL => {
                let shade = Pattern::Shaded { x: -0.35 * radius, y: -0.35 * radius, reach: 1.5 * radius };
                (Shape::Ellipse { a: radius, b: radius * squash }, shade, 0.99, Paint::Darker(0.3))
            }
            CRATE => {
                (Shape::Rectangle { a: radius * 0.9, b: radius * 0.9 * squash }, Pattern::Checks { size: field }, 0.07, Paint::Darker(0.35))
            }
            STAR => (Shape::star(rng.integer(5, 7), radius * 1.2, rng.between(0.45, 0.55)), Pattern::Plain, 0.15, Paint::Darker(1.0)),
            RING => {
                let half = radius * rng.between(0.2, 0.28);
                (Shape::Ring { radius: radius * 1.15 - half, half }, Pattern::Stripes { size: field }, 0.84, Paint::Paler)
            }
            _ => (Shape::polygon(rng.integer(5, 6), radius * 1.1, 0.15, rng), Pattern::Dots { size: field * 1.7 }, 0.5, Paint::Paler),
        };
        let hue = family_hue(hue, rng);
        let first = hsv(hue, rng.between(0.65, 0.95), bright);
        let second = match second {
            Paint::Darker(share) => first.map(|c| c * share),
            Paint::Paler => blend(first, [255.0; 3], 0.8),
        };
        // A ball is lit from above, so it is hardly rotated; all other things have any rotation.
        let turn = if class == BALL { rng.between(-0.06, 0.06) } else { rng.between(0.0, 1.0) };
        let (cos, sin) = direction(turn);
        let x = rng.between(0.04, 0.96) * width as f32;
        let y = (0.28 + 0.4 * depth + rng.between(-0.22, 0.25)) * height as f32;
        Self { class, shape, surface: Surface { pattern, first, second }, x, y, cos, sin }
    }

    /// The pixels that the thing covers, including its soft edge.
    fn pixels(&self, width: usize, height: usize) -> Vec<Pixel> {
        let reach = self.shape.reach() + 1.0;
        let range =
            |centre: f32, size: usize| (centre - reach).floor().max(0.0) as usize..((centre + reach).ceil().max(0.0) as usize).min(size);
        let mut pixels = Vec::with_capacity((4.0 * reach * reach) as usize);
        for y in range(self.y, height) {
            for x in range(self.x, width) {
                let (dx, dy) = (x as f32 + 0.5 - self.x, y as f32 + 0.5 - self.y);
                let (u, v) = (dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin);
                let distance = self.shape.distance(u, v);
                if distance < 0.5 {
                    pixels.push(Pixel { at: y * width + x, u, v, distance });
                }
            }
        }
        pixels
    }

    /// Paints the thing over the canvas. The soft edge blends with the background; the mask ends at distance 0.
    fn paint(&self, pixels: &[Pixel], id: u8, width: usize, colours: &mut [Colour], thing: &mut [u8]) {
        let reach = self.shape.reach();
        for pixel in pixels {
            let cover = (0.5 - pixel.distance).min(1.0);
            // Light comes from the upper left of the image.
            let (dx, dy) = ((pixel.at % width) as f32 - self.x, (pixel.at / width) as f32 - self.y);
            let light = 1.0 - 0.14 * (dx + dy) / reach;
            let own = self.surface.colour(pixel.u, pixel.v).map(|c| c * light);
            colours[pixel.at] = blend(colours[pixel.at], own, cover);
            if pixel.distance <= 0.0 {
                thing[pixel.at] = id;
            }
        }
    }
}

/// How the second colour of a surface follows from the first.
enum Paint {
    Darker(f32),
    Paler,
}

/// Whether a thing with these pixels leaves too little of an earlier one visible, or lies mostly outside the image.
fn hides_too_much(pixels: &[Pixel], thing: &[u8], areas: &[usize]) -> bool {
    if pixels.len() < 24 {
        return true;
    }
    let mut left = vec![0usize; areas.len()];
    for &id in thing.iter().filter(|&&id| id != NO_THING) {
        left[id as usize] += 1;
    }
    for pixel in pixels.iter().filter(|p| p.distance <= 0.0 && thing[p.at] != NO_THING) {
        left[thing[pixel.at] as usize] -= 1;
    }
    left.iter().zip(areas).any(|(&left, &area)| (left as f32) < MIN_VISIBLE * area as f32)
}

/// Applies exposure, a gradient of light, a colour cast and sensor noise, and converts to bytes.
fn expose(colours: &[Colour], width: usize, height: usize, rng: &mut SceneRng) -> Vec<u8> {
    let gain = rng.between(0.75, 1.15);
    let cast = [rng.between(0.94, 1.06), rng.between(0.96, 1.04), rng.between(0.94, 1.06)];
    let (slope_x, slope_y) = (rng.between(-0.12, 0.12) / width as f32, rng.between(-0.12, 0.12) / height as f32);
    let noise = rng.between(1.0, 7.0);
    let salt = rng.bits();
    let mut rgb = Vec::with_capacity(colours.len() * 3);
    for (y, row) in colours.chunks_exact(width).enumerate() {
        let row_light = gain * (1.0 + slope_y * (y as f32 - height as f32 * 0.5));
        for (x, colour) in row.iter().enumerate() {
            let light = row_light * (1.0 + slope_x * (x as f32 - width as f32 * 0.5));
            let grain = hash(x as i32, y as i32, salt).to_le_bytes();
            for channel in 0..3 {
                // The sum of two bytes has a triangular distribution around 0; one of the bytes is common to the channels.
                let n = (i32::from(grain[channel]) + i32::from(grain[3]) - 255) as f32 * (1.0 / 128.0);
                rgb.push((colour[channel] * light * cast[channel] + noise * n + 0.5) as u8);
            }
        }
    }
    rgb
}
