//! Times the evaluation of boxes and masks for 5,000 images with 100 results each: `cargo bench -p vision-datasets --bench coco_eval`.
//!
//! With a folder as argument (`-- DIR`) it also writes the ground truth and the results as COCO files, so that `benches/coco_eval.py DIR`
//! times pycocotools on the same input.

use std::path::PathBuf;
use std::time::Instant;

use vision_datasets::coco::{EvalConfig, IouType, evaluate, to_results, write_results};
use vision_datasets::ground_truth::{AnnotationEntry, CategoryEntry, GroundTruth, ImageEntry};
use vmamba_types::{Detection, Rle, Segmentation};

const IMAGES: usize = 5000;
const RESULTS: usize = 100;
const OBJECTS: usize = 7;
const CATEGORIES: usize = 80;
const SIZE: [usize; 2] = [480, 640];

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A polygon of eight points around a box `[x, y, width, height]`.
    fn outline(&mut self, [x, y, w, h]: [f64; 4]) -> Vec<f64> {
        (0..8)
            .flat_map(|i| {
                let (angle, reach) = (f64::from(i) * std::f64::consts::FRAC_PI_4, 0.7 + 0.3 * self.next());
                [x + w * 0.5 * (1.0 + reach * angle.cos()), y + h * 0.5 * (1.0 + reach * angle.sin())]
            })
            .collect()
    }
}

fn main() {
    let mut random = Random(7);
    let mut truth = GroundTruth {
        categories: (1..=CATEGORIES as i64).map(|id| CategoryEntry::new(id, format!("c{id}"))).collect(),
        ..GroundTruth::default()
    };
    let mut detections = Vec::new();
    for image in 0..IMAGES {
        let id = image as i64 + 1;
        truth.images.push(ImageEntry { id, file_name: format!("{id}.jpg"), size: SIZE });
        let mut objects = Vec::new();
        for _ in 0..OBJECTS {
            let (w, h) = (10.0 + 200.0 * random.next().powi(2), 10.0 + 200.0 * random.next().powi(2));
            let bbox = [random.next() * (640.0 - w), random.next() * (480.0 - h), w, h];
            let category = (random.next() * CATEGORIES as f64) as usize;
            let polygon = random.outline(bbox);
            objects.push((bbox, category));
            truth.annotations.push(AnnotationEntry {
                id: truth.annotations.len() as i64 + 1,
                image_id: id,
                category_id: category as i64 + 1,
                bbox,
                area: w * h * 0.6,
                crowd: random.next() < 0.01,
                segmentation: Some(Segmentation::Polygons(vec![polygon])),
            });
        }
        let own = (0..RESULTS).map(|_| {
            let ([x, y, w, h], category) = objects[(random.next() * OBJECTS as f64) as usize];
            let shift = |random: &mut Random, side: f64| side * (random.next() - 0.5) * 0.6;
            let bbox =
                [x + shift(&mut random, w), y + shift(&mut random, h), w * (0.8 + 0.4 * random.next()), h * (0.8 + 0.4 * random.next())];
            let category = if random.next() < 0.7 { category } else { (random.next() * CATEGORIES as f64) as usize };
            let mask = Rle::from_polygons(&[random.outline(bbox)], SIZE).expect("an outline is a polygon");
            let [x, y, w, h] = bbox.map(|side| side as f32);
            Detection { bbox: [x, y, x + w, y + h], score: random.next() as f32, category, mask: Some(mask) }
        });
        detections.push((id, own.collect::<Vec<_>>()));
    }
    for round in 0..3 {
        let begin = Instant::now();
        let results = to_results(&truth, &detections).expect("the results fit");
        let stats = [IouType::Bbox, IouType::Segm].map(|kind| {
            let report = evaluate(&truth, &results, &EvalConfig::new(kind)).expect("an evaluation");
            (kind.name(), report.stats[0], begin.elapsed().as_secs_f64())
        });
        println!("round {round}: {stats:?}, {:.2} s in all", begin.elapsed().as_secs_f64());
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    }
    if let Some(folder) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from) {
        std::fs::create_dir_all(&folder).expect("the folder");
        truth.write(&folder.join("truth.json")).expect("the ground truth");
        let results = to_results(&truth, &detections).expect("the results fit");
        for kind in [IouType::Bbox, IouType::Segm] {
            write_results(&folder.join(format!("{}.json", kind.name())), &results, kind).expect("the results");
        }
    }
}
