//! Suppression on the CPU: every kept box is compared with all later boxes, in vectors.

use crate::cpu::simd::{Kernel, dispatch};

/// Whether each box is kept; boxes come by descending score.
pub(super) fn kept(boxes: &[[f32; 4]], iou_threshold: f32) -> Vec<bool> {
    let side = |part: usize| boxes.iter().map(|bbox| bbox[part]).collect::<Vec<f32>>();
    let areas = boxes.iter().map(|b| (b[2] - b[0]) * (b[3] - b[1])).collect();
    dispatch(Suppress { sides: [side(0), side(1), side(2), side(3)], areas, iou_threshold })
}

struct Suppress {
    sides: [Vec<f32>; 4],
    areas: Vec<f32>,
    iou_threshold: f32,
}

impl Kernel for Suppress {
    type Output = Vec<bool>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Vec<bool> {
        let Self { sides: [x0, y0, x1, y1], areas, iou_threshold } = self;
        let count = areas.len();
        // 32 bits like the coordinates, so that the loop below vectorises with one lane width.
        let mut suppressed = vec![0_u32; count];
        let mut kept = vec![false; count];
        for index in 0..count {
            if suppressed[index] != 0 {
                continue;
            }
            kept[index] = true;
            let own = [x0[index], y0[index], x1[index], y1[index], areas[index]];
            let rest = index + 1..count;
            let (x0, y0, x1, y1) = (&x0[rest.clone()], &y0[rest.clone()], &x1[rest.clone()], &y1[rest.clone()]);
            let (areas, suppressed) = (&areas[rest.clone()], &mut suppressed[rest]);
            for (((((x0, y0), x1), y1), area), suppressed) in x0.iter().zip(y0).zip(x1).zip(y1).zip(areas).zip(suppressed) {
                let width = (own[2].min(*x1) - own[0].max(*x0)).max(0.0);
                let height = (own[3].min(*y1) - own[1].max(*y0)).max(0.0);
                let overlap = width * height;
                // For two boxes of zero area this is NaN, which suppresses nothing.
                let iou = overlap / (own[4] + area - overlap);
                *suppressed |= u32::from(iou > iou_threshold);
            }
        }
        kept
    }
}
