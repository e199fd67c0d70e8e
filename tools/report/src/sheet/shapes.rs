//! Antialiased shapes: a pixel is blended by how much of it the shape covers.

use image::RgbImage;

/// Fills a shape that extends at most `margin` pixels beyond `corners` `[x, y]`. `outside` is the signed distance of a point to its edge in
/// pixels, negative inside.
pub(super) fn draw_shape(out: &mut RgbImage, corners: &[[f32; 2]], margin: f32, colour: [u8; 3], outside: impl Fn([f32; 2]) -> f32) {
    let pixels = |axis: usize, limit: u32| {
        let low = corners.iter().map(|corner| corner[axis]).fold(f32::INFINITY, f32::min) - margin - 1.0;
        let high = corners.iter().map(|corner| corner[axis]).fold(f32::NEG_INFINITY, f32::max) + margin + 1.0;
        low.max(0.0) as u32..(high.max(0.0).ceil() as u32).min(limit)
    };
    for y in pixels(1, out.height()) {
        for x in pixels(0, out.width()) {
            let covered = (0.5 - outside([x as f32 + 0.5, y as f32 + 0.5])).clamp(0.0, 1.0);
            for (below, above) in out.get_pixel_mut(x, y).0.iter_mut().zip(colour) {
                *below = (f32::from(*below) * (1.0 - covered) + f32::from(above) * covered).round() as u8;
            }
        }
    }
}

/// Distance of a point to a line segment, in pixels.
pub(super) fn distance_to_segment([x, y]: [f32; 2], from: [f32; 2], to: [f32; 2]) -> f32 {
    let [along_x, along_y] = [to[0] - from[0], to[1] - from[1]];
    let squared = along_x * along_x + along_y * along_y;
    let share = if squared > 0.0 { (((x - from[0]) * along_x + (y - from[1]) * along_y) / squared).clamp(0.0, 1.0) } else { 0.0 };
    f32::hypot(x - from[0] - share * along_x, y - from[1] - share * along_y)
}

/// Signed distance of a point to the edge of a triangle in pixels, negative inside.
pub(super) fn distance_to_triangle(place: [f32; 2], corners: [[f32; 2]; 3]) -> f32 {
    let sides = [0, 1, 2].map(|first| [corners[first], corners[(first + 1) % 3]]);
    let turns = sides.map(|[from, to]| (to[0] - from[0]) * (place[1] - from[1]) - (to[1] - from[1]) * (place[0] - from[0]));
    let nearest = sides.iter().map(|[from, to]| distance_to_segment(place, *from, *to)).fold(f32::INFINITY, f32::min);
    let within = turns.iter().all(|turn| *turn >= 0.0) || turns.iter().all(|turn| *turn <= 0.0);
    if within { -nearest } else { nearest }
}
