//! The scenes as a segmentation data set.

use image::RgbImage;
use vmamba_types::{BitMask, ClassList, Instance, InstanceMask, LabelMap, Rle};

use super::paint::{NO_THING, paint};
use super::{SceneConfig, SceneConfigError};
use crate::error::DataError;
use crate::sample::{SegmentationDataset, SegmentationSample};

/// Names and display colours of the eight classes: three kinds of stuff, then five things.
const CLASSES: [(&str, [u8; 3]); 8] = [
    ("sky", [120, 190, 255]),
    ("hill", [34, 110, 60]),
    ("ground", [170, 130, 90]),
    ("ball", [230, 40, 40]),
    ("crate", [255, 140, 0]),
    ("star", [250, 230, 50]),
    ("ring", [230, 60, 220]),
    ("gem", [0, 220, 220]),
];

/// The classes of the scenes.
pub fn scene_classes() -> ClassList {
    ClassList::new(CLASSES.iter().map(|(name, colour)| ((*name).to_owned(), *colour)))
}

/// A scene with all its annotations; all parts have the same height and width.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The image.
    pub image: RgbImage,
    /// The class of every pixel; things hide stuff.
    pub labels: LabelMap,
    /// The things with at least one visible pixel, from back to front, with the boxes and masks of their visible parts. Class indices are
    /// those of [`scene_classes`].
    pub instances: Vec<Instance>,
}

/// The built-in scenes as a segmentation data set. A scene is painted whenever it is read, so the data set takes no memory.
#[derive(Clone, Debug)]
pub struct SceneDataset {
    config: SceneConfig,
    classes: ClassList,
}

impl SceneDataset {
    /// The scenes of a configuration.
    ///
    /// # Errors
    /// When a size or a number of things is outside its range.
    pub fn new(config: SceneConfig) -> Result<Self, SceneConfigError> {
        config.validate()?;
        Ok(Self { config, classes: scene_classes() })
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &SceneConfig {
        &self.config
    }

    /// The number of scene `index` in its world.
    ///
    /// # Errors
    /// When `index` is not below the number of scenes.
    pub(super) fn number(&self, index: usize) -> Result<u64, DataError> {
        let len = self.config.count;
        if index < len { Ok(self.config.first.wrapping_add(index as u64)) } else { Err(DataError::NoSuchSample { index, len }) }
    }

    /// Paints scene `index`, counted from [`SceneConfig::first`]. It may lie beyond the data set: a world has 2^64 scenes.
    pub fn scene(&self, index: u64) -> Scene {
        let (width, height) = (self.config.width, self.config.height);
        let canvas = paint(&self.config, self.config.first.wrapping_add(index));
        let class = |(&stuff, &thing): (&u8, &u8)| if thing == NO_THING { stuff } else { canvas.things[usize::from(thing)] };
        let labels: Vec<u8> = canvas.stuff.iter().zip(&canvas.thing).map(class).collect();
        let instances =
            canvas.things.iter().enumerate().filter_map(|(id, &class)| instance(&canvas.thing, id as u8, class, width, height)).collect();
        // The painter returns exactly these sizes, which `scenes_agree_in_all_their_parts` tests.
        let image = RgbImage::from_raw(width as u32, height as u32, canvas.rgb).unwrap_or_default();
        Scene { image, labels: LabelMap::new(height, width, labels), instances }
    }
}

/// The visible part of thing `id`; `None` when later things hide all of it.
fn instance(things: &[u8], id: u8, class: u8, width: usize, height: usize) -> Option<Instance> {
    let mask: Vec<bool> = things.iter().map(|&t| t == id).collect();
    let rows = || (0..height).filter(|&y| mask[y * width..(y + 1) * width].contains(&true));
    let (top, bottom) = (rows().next()?, rows().next_back()?);
    let columns = || (0..width).filter(|&x| (top..=bottom).any(|y| mask[y * width + x]));
    let (left, right) = (columns().next()?, columns().next_back()?);
    let bbox = [left as f32, top as f32, (right + 1) as f32, (bottom + 1) as f32];
    let mask = Some(InstanceMask::from_rle(Rle::from_bits(&BitMask::new(height, width, mask))));
    Some(Instance { bbox, category: usize::from(class), crowd: false, mask })
}

impl SegmentationDataset for SceneDataset {
    fn len(&self) -> usize {
        self.config.count
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        let number = self.number(index)?;
        let Scene { image, labels, .. } = self.scene(index as u64);
        Ok(SegmentationSample::new(image, labels, scene_name(number)))
    }

    fn size(&self, _index: usize) -> Result<[usize; 2], DataError> {
        Ok([self.config.height, self.config.width])
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }
}

/// The name of a scene and of its file, by its number in the world.
pub(super) fn scene_name(number: u64) -> String {
    format!("scene_{number:06}")
}

#[cfg(test)]
mod tests {
    use super::super::{BALL, CRATE, GROUND, SKY};
    use super::*;

    fn small() -> SceneDataset {
        SceneDataset::new(SceneConfig { count: 60, height: 64, width: 96, ..SceneConfig::default() }).unwrap()
    }

    #[test]
    fn scenes_agree_in_all_their_parts() {
        for index in 0..60 {
            let scene = small().scene(index);
            assert_eq!(scene.image.dimensions(), (96, 64));
            let labels = scene.labels.as_slice();
            assert_eq!(labels.len(), 96 * 64);
            let mut things = vec![false; labels.len()];
            for instance in &scene.instances {
                let [x0, y0, x1, y1] = instance.bbox.map(|v| v as usize);
                let mask = instance.mask.as_ref().unwrap().rle().to_bits();
                for (at, &on) in mask.as_slice().iter().enumerate() {
                    if on {
                        assert_eq!(usize::from(labels[at]), instance.category);
                        assert!(!std::mem::replace(&mut things[at], true), "masks of visible parts do not overlap");
                        let (x, y) = (at % 96, at / 96);
                        assert!((x0..x1).contains(&x) && (y0..y1).contains(&y), "the box holds the mask");
                    }
                }
                let on = |x: usize, y: usize| mask.as_slice()[y * 96 + x];
                assert!((y0..y1).any(|y| on(x0, y)) && (y0..y1).any(|y| on(x1 - 1, y)), "the box is tight");
                assert!((x0..x1).any(|x| on(x, y0)) && (x0..x1).any(|x| on(x, y1 - 1)), "the box is tight");
            }
            for (label, thing) in labels.iter().zip(things) {
                assert_eq!(thing, *label >= BALL, "every thing has a mask");
            }
        }
    }

    /// A change of the painter changes the scenes of every seed, so it must be deliberate.
    #[test]
    fn a_scene_is_the_same_bytes_on_every_platform() {
        let world = SceneDataset::new(SceneConfig { seed: 42, ..SceneConfig::default() }).unwrap();
        // FNV-1a, 64 bits, over ten scenes.
        let hash = |start: u64, bytes: &[u8]| bytes.iter().fold(start, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        let (mut image, mut labels) = (0xCBF2_9CE4_8422_2325, 0xCBF2_9CE4_8422_2325);
        for index in 10..20 {
            let scene = world.scene(index);
            image = hash(image, scene.image.as_raw());
            labels = hash(labels, scene.labels.as_slice());
        }
        assert_eq!([image, labels], [IMAGE_HASH, LABEL_HASH]);
    }
    const IMAGE_HASH: u64 = 3601192760007868;
    const LABEL_HASH: u64 = 10723432711233232773;

    #[test]
    fn a_validation_set_continues_the_training_set() {
        let world = small();
        let later = SceneDataset::new(world.config().following(50)).unwrap();
        assert_eq!(world.scene(63).image, later.scene(3).image);
        assert_ne!(world.scene(3).image, later.scene(3).image);
        assert_eq!(later.get(3).unwrap().name, "scene_000063");
        assert!(matches!(later.get(50), Err(DataError::NoSuchSample { index: 50, len: 50 })));
    }

    #[test]
    fn every_class_is_common() {
        let world = SceneDataset::new(SceneConfig { count: 200, ..SceneConfig::default() }).unwrap();
        let mut images = [0usize; 8];
        for index in 0..200 {
            let labels = world.scene(index).labels;
            (0..8u8).filter(|c| labels.as_slice().contains(c)).for_each(|c| images[usize::from(c)] += 1);
        }
        assert!(images[usize::from(SKY)] > 190 && images[usize::from(GROUND)] > 190, "{images:?}");
        assert!(images.iter().all(|&n| n > 70), "{images:?}");
    }

    #[test]
    fn a_size_outside_its_range_is_refused_with_its_name() {
        let error = SceneDataset::new(SceneConfig { height: 8, ..SceneConfig::default() }).unwrap_err();
        assert!(error.to_string().contains("height") && error.to_string().contains('8'), "{error}");
        assert!(SceneDataset::new(SceneConfig { min_objects: 5, max_objects: 4, ..SceneConfig::default() }).is_err());
    }

    #[test]
    fn odd_shapes_are_painted() {
        let config = SceneConfig { height: 17, width: 300, max_objects: 12, ..SceneConfig::default() };
        let world = SceneDataset::new(config).unwrap();
        (0..20).for_each(|i| assert_eq!(world.scene(i).image.dimensions(), (300, 17)));
        assert_eq!(CLASSES[usize::from(CRATE)].0, "crate");
    }
}
