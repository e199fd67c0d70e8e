//! Outlines of things as signed distances in pixels: negative inside, 0 on the border.
//!
//! The signed distance of a pixel centre gives both the mask (`<= 0`) and the soft edge of the image.

use super::random::{SceneRng, direction};

/// The geometry of a thing around its own origin, in pixels.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Half axes.
    Ellipse { a: f32, b: f32 },
    /// Half width and half height.
    Rectangle { a: f32, b: f32 },
    /// Middle radius and half thickness of the band.
    Ring { radius: f32, half: f32 },
    /// Vertices of a closed polygon: stars, regular and irregular polygons.
    Polygon { vertices: Vec<(f32, f32)> },
}

impl Shape {
    /// A star with `points` tips, outer radius `radius` and inner radius `radius * inner`.
    pub(super) fn star(points: u32, radius: f32, inner: f32) -> Self {
        let vertices = (0..2 * points)
            .map(|i| {
                let (c, s) = direction(i as f32 / (2 * points) as f32);
                let r = if i % 2 == 0 { radius } else { radius * inner };
                (c * r, s * r)
            })
            .collect();
        Self::Polygon { vertices }
    }

    /// A polygon of `sides` vertices whose distances from the origin are up to a share of `jitter` below `radius`.
    pub(super) fn polygon(sides: u32, radius: f32, jitter: f32, rng: &mut SceneRng) -> Self {
        let vertices = (0..sides)
            .map(|i| {
                let (c, s) = direction(i as f32 / sides as f32);
                let r = radius * (1.0 - rng.between(0.0, jitter));
                (c * r, s * r)
            })
            .collect();
        Self::Polygon { vertices }
    }

    /// Radius of a circle around the origin that contains the shape.
    pub(super) fn reach(&self) -> f32 {
        match self {
            Self::Ellipse { a, b } => a.max(*b),
            Self::Rectangle { a, b } => (a * a + b * b).sqrt(),
            Self::Ring { radius, half } => radius + half,
            Self::Polygon { vertices } => vertices.iter().map(|(x, y)| (x * x + y * y).sqrt()).fold(0.0, f32::max),
        }
    }

    /// Signed distance of the point `(x, y)` to the outline. For the ellipse it is a first-order estimate, which is accurate near the border.
    pub(super) fn distance(&self, x: f32, y: f32) -> f32 {
        match self {
            Self::Ellipse { a, b } => {
                let (u, v) = (x / a, y / b);
                let f = u * u + v * v;
                let (gx, gy) = (u / a, v / b);
                let gradient = (gx * gx + gy * gy).sqrt();
                // f / |grad f| near the border. At the centre the gradient vanishes, and the distance is the short half axis.
                if gradient < 1e-6 { -a.min(*b) } else { (f - 1.0) / (2.0 * gradient) }
            }
            Self::Rectangle { a, b } => {
                let (dx, dy) = (x.abs() - a, y.abs() - b);
                let (ox, oy) = (dx.max(0.0), dy.max(0.0));
                (ox * ox + oy * oy).sqrt() + dx.max(dy).min(0.0)
            }
            Self::Ring { radius, half } => ((x * x + y * y).sqrt() - radius).abs() - half,
            Self::Polygon { vertices } => polygon_distance(vertices, x, y),
        }
    }
}

/// Distance to the nearest edge; the parity of crossed edges decides the sign.
fn polygon_distance(vertices: &[(f32, f32)], x: f32, y: f32) -> f32 {
    let Some(&last) = vertices.last() else { return f32::INFINITY };
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let (mut px, mut py) = last;
    for &(qx, qy) in vertices {
        let (ex, ey) = (px - qx, py - qy);
        let (wx, wy) = (x - qx, y - qy);
        let t = ((wx * ex + wy * ey) / (ex * ex + ey * ey).max(1e-12)).clamp(0.0, 1.0);
        let (dx, dy) = (wx - ex * t, wy - ey * t);
        nearest = nearest.min(dx * dx + dy * dy);
        if (qy > y) != (py > y) && x < qx + ex * (y - qy) / ey {
            inside = !inside;
        }
        (px, py) = (qx, qy);
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_the_sign_of_inside_and_outside() {
        let shapes = [
            Shape::Ellipse { a: 5.0, b: 3.0 },
            Shape::Rectangle { a: 5.0, b: 3.0 },
            Shape::star(5, 6.0, 0.45),
            Shape::polygon(6, 6.0, 0.2, &mut SceneRng::new(0, 0)),
        ];
        for shape in shapes {
            assert!(shape.distance(0.0, 0.0) < 0.0, "{shape:?}");
            assert!(shape.distance(shape.reach() + 1.0, 0.5) > 0.0, "{shape:?}");
        }
        let ring = Shape::Ring { radius: 5.0, half: 1.0 };
        assert!(ring.distance(0.0, 0.0) > 0.0 && ring.distance(5.0, 0.0) < 0.0 && ring.distance(0.0, 7.0) > 0.0);
    }

    #[test]
    fn a_square_polygon_equals_the_rectangle() {
        let square = Shape::Polygon { vertices: vec![(2.0, 2.0), (-2.0, 2.0), (-2.0, -2.0), (2.0, -2.0)] };
        let rectangle = Shape::Rectangle { a: 2.0, b: 2.0 };
        for i in 0..100 {
            let (x, y) = ((i % 10) as f32 * 0.7 - 3.3, (i / 10) as f32 * 0.7 - 3.2);
            assert!((square.distance(x, y) - rectangle.distance(x, y)).abs() < 1e-5);
        }
    }
}
