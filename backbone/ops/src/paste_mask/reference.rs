//! Mask pasting pixel by pixel over the whole photo, which the runs are tested against.

/// The interpolated value of every pixel of a photo of `[height, width]`, row-major; 0 outside the box and one pixel around it.
pub(super) fn paste_mask(mask: &[f32], side: usize, [x0, y0, x1, y1]: [f32; 4], [height, width]: [usize; 2]) -> Vec<f32> {
    let value = |y: f32, x: f32| {
        let inside = y >= 0.0 && x >= 0.0 && y < side as f32 && x < side as f32;
        if inside { mask[y as usize * side + x as usize] } else { 0.0 }
    };
    let small = |pixel: usize, begin: f32, end: f32| {
        let position = (pixel as f32 + 0.5 - begin) / (end - begin) * 2.0 - 1.0;
        ((position + 1.0) * side as f32 - 1.0) / 2.0
    };
    let near = |pixel: usize, begin: f32, end: f32| pixel as f32 >= begin.floor() - 1.0 && (pixel as f32) < end.ceil() + 1.0;
    (0..height * width)
        .map(|at| {
            let (row, column) = (at / width, at % width);
            if !near(row, y0, y1) || !near(column, x0, x1) {
                return 0.0;
            }
            let (y, x) = (small(row, y0, y1), small(column, x0, x1));
            let (top, left) = (y.floor(), x.floor());
            let (ly, lx) = (y - top, x - left);
            (1.0 - ly) * ((1.0 - lx) * value(top, left) + lx * value(top, left + 1.0))
                + ly * ((1.0 - lx) * value(top + 1.0, left) + lx * value(top + 1.0, left + 1.0))
        })
        .collect()
}
