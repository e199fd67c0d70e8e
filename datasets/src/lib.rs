//! Data sets for segmentation and detection: reading, transforming, loading, evaluating, checking. Knows no network.
//!
//! ```text
//! folder of the ADE20K layout ─┐
//! built-in scenes ─────────────┴─ SegmentationDataset ── TrainPipeline ── TrainLoader ──> batches
//!                                          │        └──── TestPipeline ── Prefetch ─────> network inputs
//!                                          └─ check                        IouMetric <── label maps
//! ```
//!
//! * [`sample`]: the types that travel: images, label maps, boxes, masks, class lists.
//! * [`image_io`]: pictures and label maps from files.
//! * [`ade20k`]: folders with images and label maps, the 150 classes, mIoU by mmsegmentation's conventions.
//! * [`coco`]: COCO annotations, results, average precision.
//! * [`imagenet`]: a folder of images a class.
//! * [`mask`]: masks of instances in compact form.
//! * [`scenes`]: labelled pictures painted on demand, for demos and tests.
//! * [`transforms`]: resize as OpenCV and Pillow do it, crops, flips, colour, normalisation.
//! * [`loader`]: the same batches for the same seed whatever the number of workers.
//! * [`check`]: what is wrong with a data set, before training.

pub mod ade20k;
pub mod check;
pub mod coco;
pub mod image_io;
pub mod imagenet;
pub mod loader;
pub mod mask;
pub mod sample;
pub mod scenes;
pub mod transforms;
