//! The annotation file: read strictly, every error with the file, the annotation and the field.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::mask::{MaskError, Rle, Segmentation};

/// Something is wrong with an annotation or result file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {place}{problem}", path.display())]
pub struct CocoError {
    /// The file.
    pub path: PathBuf,
    /// Where in it: `annotation 17: `, or nothing.
    pub place: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with an annotation or result file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{0}")]
    Io(String),
    /// It is no JSON, or a field has the wrong type.
    #[error("{0}")]
    Json(String),
    /// It is JSON, but no COCO annotations.
    #[error("`{0}` is missing; COCO annotations have the lists `images`, `annotations` and `categories`")]
    NotCoco(&'static str),
    /// A field is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// An image that is not in `images`.
    #[error("image_id {0} is not among the images")]
    UnknownImage(i64),
    /// A category that is not in `categories`.
    #[error("category_id {0} is not among the categories")]
    UnknownCategory(i64),
    /// An id that occurs twice.
    #[error("id {0} occurs twice")]
    DuplicateId(i64),
    /// Ids count from 0.
    #[error("id {0} is negative")]
    NegativeId(i64),
    /// A box has x, y, width and height.
    #[error("bbox has {0} numbers instead of x, y, width, height")]
    Box(usize),
    /// A number that is none.
    #[error("`{0}` is no finite number")]
    NotFinite(&'static str),
    /// A segmentation that is none.
    #[error("segmentation: {0}")]
    Mask(#[from] MaskError),
    /// A segmentation that no pixel of the image can belong to.
    #[error("segmentation: all its points lie outside the image of {}x{} (width x height)", .0[1], .0[0])]
    Outside([usize; 2]),
    /// An image without pixels.
    #[error("its size is {}x{} (width x height)", .0[1], .0[0])]
    Size([usize; 2]),
    /// No image is left to train on.
    #[error("no image has an object{0}")]
    NoObjects(String),
    /// The classes are not those expected.
    #[error("{0}")]
    Classes(String),
    /// A result without a box and without a mask.
    #[error("neither `bbox` nor `segmentation`")]
    NoGeometry,
}

/// An image of the annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEntry {
    /// Its number.
    pub id: i64,
    /// Its file, relative to the folder of images.
    pub file_name: String,
    /// `[height, width]`
    pub size: [usize; 2],
}

/// A category of the annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CategoryEntry {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
}

/// An object, or a crowd of them.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnotationEntry {
    /// Its number.
    pub id: i64,
    /// The image it is on.
    pub image_id: i64,
    /// Its category.
    pub category_id: i64,
    /// `[x, y, width, height]` in pixels of the image.
    pub bbox: [f64; 4],
    /// Area as annotated, in pixels.
    pub area: f64,
    /// Whether it is a crowd.
    pub crowd: bool,
    /// Its pixels.
    pub segmentation: Option<Segmentation>,
}

/// Images, categories and annotations. The order of the categories is that of the class indices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroundTruth {
    /// Images.
    pub images: Vec<ImageEntry>,
    /// Categories.
    pub categories: Vec<CategoryEntry>,
    /// Annotations, crowds included.
    pub annotations: Vec<AnnotationEntry>,
}

#[derive(Deserialize)]
struct RawFile {
    images: Option<Vec<RawImage>>,
    annotations: Option<Vec<RawAnnotation>>,
    categories: Option<Vec<RawCategory>>,
}

#[derive(Deserialize)]
struct RawImage {
    id: Option<i64>,
    file_name: Option<String>,
    height: Option<usize>,
    width: Option<usize>,
}

#[derive(Deserialize)]
struct RawCategory {
    id: Option<i64>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct RawAnnotation {
    id: Option<i64>,
    image_id: Option<i64>,
    category_id: Option<i64>,
    bbox: Option<Vec<f64>>,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: Flag,
    segmentation: Option<RawSegmentation>,
}

/// 0 or 1, true or false.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(from = "RawFlag")]
struct Flag(bool);

#[derive(Deserialize)]
#[serde(untagged)]
enum RawFlag {
    Bool(bool),
    Number(f64),
}

impl From<RawFlag> for Flag {
    fn from(flag: RawFlag) -> Self {
        Self(match flag {
            RawFlag::Bool(flag) => flag,
            RawFlag::Number(number) => number != 0.0,
        })
    }
}

/// A segmentation as it stands in a file.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RawSegmentation {
    Polygons(Vec<Vec<f64>>),
    Runs { size: [usize; 2], counts: Vec<u32> },
    Compressed { size: [usize; 2], counts: String },
}

impl RawSegmentation {
    pub(super) fn into_segmentation(self) -> Result<Segmentation, MaskError> {
        Ok(match self {
            Self::Polygons(polygons) => Segmentation::Polygons(polygons),
            Self::Runs { size, counts } => Segmentation::Rle(Rle { size, counts }),
            Self::Compressed { size, counts } => Segmentation::Rle(Rle::from_compressed(&counts, size)?),
        })
    }
}

/// Reads JSON; an error of type or syntax names the place.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, CocoError> {
    let fail = |problem| CocoError { path: path.to_owned(), place: String::new(), problem };
    let file = std::fs::File::open(path).map_err(|error| fail(Problem::Io(error.to_string())))?;
    let mut reader = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, file));
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let place = error.path().to_string();
        let place = if place == "." { String::new() } else { format!("{place}: ") };
        CocoError { path: path.to_owned(), place, problem: Problem::Json(error.into_inner().to_string()) }
    })
}

impl GroundTruth {
    /// Reads an annotation file.
    ///
    /// # Errors
    /// On the first thing that is wrong, with the annotation and the field. What only makes an annotation useless (a box without area) is no
    /// error here.
    pub fn read(path: &Path) -> Result<Self, CocoError> {
        let raw: RawFile = read_json(path)?;
        let fail = |place: String, problem: Problem| CocoError { path: path.to_owned(), place, problem };
        let list = |name| fail(String::new(), Problem::NotCoco(name));

        let mut truth = Self::default();
        let mut sizes: BTreeMap<i64, [usize; 2]> = BTreeMap::new();
        for (index, image) in raw.images.ok_or_else(|| list("images"))?.into_iter().enumerate() {
            let place = || image.id.map_or_else(|| format!("images[{index}]: "), |id| format!("image {id}: "));
            let missing = |field| fail(place(), Problem::Missing(field));
            let id = image.id.ok_or_else(|| missing("id"))?;
            let size = [image.height.ok_or_else(|| missing("height"))?, image.width.ok_or_else(|| missing("width"))?];
            if size.contains(&0) {
                return Err(fail(place(), Problem::Size(size)));
            }
            if id < 0 {
                return Err(fail(place(), Problem::NegativeId(id)));
            }
            if sizes.insert(id, size).is_some() {
                return Err(fail(format!("images[{index}]: "), Problem::DuplicateId(id)));
            }
            let file_name = image.file_name.clone().ok_or_else(|| missing("file_name"))?;
            truth.images.push(ImageEntry { id, file_name, size });
        }

        let mut categories = BTreeSet::new();
        for (index, category) in raw.categories.ok_or_else(|| list("categories"))?.into_iter().enumerate() {
            let place = || format!("categories[{index}]: ");
            let id = category.id.ok_or_else(|| fail(place(), Problem::Missing("id")))?;
            if id < 0 {
                return Err(fail(place(), Problem::NegativeId(id)));
            }
            if !categories.insert(id) {
                return Err(fail(place(), Problem::DuplicateId(id)));
            }
            let name = category.name.ok_or_else(|| fail(place(), Problem::Missing("name")))?;
            truth.categories.push(CategoryEntry { id, name });
        }

        let mut ids = BTreeSet::new();
        for (index, annotation) in raw.annotations.ok_or_else(|| list("annotations"))?.into_iter().enumerate() {
            let place = annotation.id.map_or_else(|| format!("annotations[{index}]: "), |id| format!("annotation {id}: "));
            let entry = annotation.check(&sizes, &categories, &mut ids).map_err(|problem| fail(place, problem))?;
            truth.annotations.push(entry);
        }
        Ok(truth)
    }
}

impl GroundTruth {
    /// Writes an annotation file; masks keep their form, runs being compressed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), CocoError> {
        let segmentation = |segmentation: &Segmentation| match segmentation {
            Segmentation::Polygons(polygons) => json!(polygons),
            Segmentation::Rle(rle) => json!({"size": rle.size, "counts": rle.to_compressed()}),
        };
        let document = json!({
            "images": self.images.iter().map(|image| {
                json!({"id": image.id, "file_name": image.file_name, "height": image.size[0], "width": image.size[1]})
            }).collect::<Vec<_>>(),
            "categories": self.categories.iter().map(|category| json!({"id": category.id, "name": category.name})).collect::<Vec<_>>(),
            "annotations": self.annotations.iter().map(|annotation| {
                json!({
                    "id": annotation.id, "image_id": annotation.image_id, "category_id": annotation.category_id, "bbox": annotation.bbox,
                    "area": annotation.area, "iscrowd": u8::from(annotation.crowd),
                    "segmentation": annotation.segmentation.as_ref().map_or_else(|| json!([]), segmentation),
                })
            }).collect::<Vec<_>>(),
        });
        std::fs::write(path, format!("{document}\n")).map_err(|error| CocoError {
            path: path.to_owned(),
            place: String::new(),
            problem: Problem::Io(error.to_string()),
        })
    }
}

impl RawAnnotation {
    fn check(
        self,
        sizes: &BTreeMap<i64, [usize; 2]>,
        categories: &BTreeSet<i64>,
        ids: &mut BTreeSet<i64>,
    ) -> Result<AnnotationEntry, Problem> {
        let id = self.id.ok_or(Problem::Missing("id"))?;
        if id < 0 {
            return Err(Problem::NegativeId(id));
        }
        if !ids.insert(id) {
            return Err(Problem::DuplicateId(id));
        }
        let image_id = self.image_id.ok_or(Problem::Missing("image_id"))?;
        let size = *sizes.get(&image_id).ok_or(Problem::UnknownImage(image_id))?;
        let category_id = self.category_id.ok_or(Problem::Missing("category_id"))?;
        if !categories.contains(&category_id) {
            return Err(Problem::UnknownCategory(category_id));
        }
        let bbox = to_box(&self.bbox.ok_or(Problem::Missing("bbox"))?)?;
        let segmentation = match self.segmentation.map(RawSegmentation::into_segmentation).transpose()? {
            // Some tools write an empty list where there is no mask.
            Some(Segmentation::Polygons(polygons)) if polygons.is_empty() => None,
            other => other,
        };
        if let Some(segmentation) = &segmentation {
            segmentation.validate(size)?;
            if let Segmentation::Polygons(polygons) = segmentation {
                let inside = |p: &[f64; 2]| p[0] >= 0.0 && p[1] >= 0.0 && p[0] <= size[1] as f64 && p[1] <= size[0] as f64;
                if !polygons.iter().any(|polygon| polygon.as_chunks::<2>().0.iter().any(inside)) && !self.iscrowd.0 {
                    return Err(Problem::Outside(size));
                }
            }
        }
        let area = match self.area {
            Some(area) if !area.is_finite() => return Err(Problem::NotFinite("area")),
            Some(area) => area,
            // As pycocotools would have it for a mask; a box otherwise.
            None => match &segmentation {
                Some(segmentation) => segmentation.to_rle(size)?.area() as f64,
                None => bbox[2] * bbox[3],
            },
        };
        Ok(AnnotationEntry { id, image_id, category_id, bbox, area, crowd: self.iscrowd.0, segmentation })
    }
}

/// Four finite numbers.
pub(super) fn to_box(numbers: &[f64]) -> Result<[f64; 4], Problem> {
    let bbox = <[f64; 4]>::try_from(numbers).map_err(|_| Problem::Box(numbers.len()))?;
    if bbox.iter().all(|value| value.is_finite()) { Ok(bbox) } else { Err(Problem::NotFinite("bbox")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GroundTruth, CocoError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        GroundTruth::read(file.path())
    }

    const HEAD: &str =
        r#"{"images":[{"id":7,"file_name":"a.jpg","height":20,"width":30}],"categories":[{"id":3,"name":"cat"}],"annotations":["#;

    fn annotation(text: &str) -> Result<GroundTruth, CocoError> {
        read(&format!("{HEAD}{text}]}}"))
    }

    #[test]
    fn masks_in_every_form_are_read() {
        let truth = annotation(
            r#"{"id":1,"image_id":7,"category_id":3,"bbox":[1,2,8,9],"area":60,"iscrowd":0,"segmentation":[[1,2,9,2,9,11],[2,2,4,2,4,4]]},
               {"id":2,"image_id":7,"category_id":3,"bbox":[0,0,30,20],"area":600,"iscrowd":1,"segmentation":{"size":[20,30],"counts":[0,600]}},
               {"id":4,"image_id":7,"category_id":3,"bbox":[0,0,30,20],"iscrowd":false,"segmentation":{"size":[20,30],"counts":"0hb0"}},
               {"id":5,"image_id":7,"category_id":3,"bbox":[0,0,3,2],"segmentation":[]}"#,
        )
        .unwrap();
        let crowds: Vec<bool> = truth.annotations.iter().map(|a| a.crowd).collect();
        assert_eq!(crowds, [false, true, false, false]);
        assert_eq!(truth.annotations[2].area, 600.0);
        assert_eq!((truth.annotations[3].area, &truth.annotations[3].segmentation), (6.0, &None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |fields: &str| annotation(&format!(r#"{{"id":1,{fields}}}"#)).unwrap_err();
        let common = r#""image_id":7,"category_id":3,"bbox":[1,2,8,9]"#;
        for (fields, part) in [
            (r#""image_id":7,"bbox":[1,2,8,9]"#.to_owned(), "annotation 1: `category_id` is missing"),
            (r#""category_id":3,"bbox":[1,2,8,9]"#.to_owned(), "annotation 1: `image_id` is missing"),
            (r#""image_id":8,"category_id":3,"bbox":[1,2,8,9]"#.to_owned(), "annotation 1: image_id 8 is not among the images"),
            (r#""image_id":7,"category_id":9,"bbox":[1,2,8,9]"#.to_owned(), "category_id 9 is not among the categories"),
            (r#""image_id":7,"category_id":3,"bbox":[1,2,8]"#.to_owned(), "bbox has 3 numbers"),
            (r#""image_id":7,"category_id":3"#.to_owned(), "`bbox` is missing"),
            (format!(r#"{common},"segmentation":[[1,2,3]]"#), "polygon 0 has 3 numbers"),
            (format!(r#"{common},"segmentation":[[1,2,3,4,5,6,7]]"#), "polygon 0 has 7 numbers"),
            (format!(r#"{common},"segmentation":[[40,2,50,4,45,6]]"#), "outside the image of 30x20"),
            (format!(r#"{common},"segmentation":{{"size":[20,30],"counts":[0,599]}}"#), "599 pixels"),
            (format!(r#"{common},"segmentation":{{"size":[20,31],"counts":[0,620]}}"#), "different sizes"),
            (format!(r#"{common},"segmentation":"x""#), "annotations[0].segmentation"),
        ] {
            let error = with(&fields).to_string();
            assert!(error.contains(part), "{error}");
        }
        let twice = r#"{"id":1,"image_id":7,"category_id":3,"bbox":[1,2,8,9]}"#;
        assert!(annotation(&format!("{twice},{twice}")).unwrap_err().to_string().contains("id 1 occurs twice"));
        for (text, part) in [
            ("[1,2]", "invalid type"),
            ("{\"images\":[", "EOF"),
            ("{}", "`images` is missing"),
            (r#"{"images":[],"annotations":[]}"#, "`categories` is missing"),
            (r#"{"images":[{"id":1,"height":2,"width":2}],"annotations":[],"categories":[]}"#, "image 1: `file_name` is missing"),
            (r#"{"images":[{"id":1,"file_name":"a","height":0,"width":2}],"annotations":[],"categories":[]}"#, "its size is 2x0"),
            (r#"{"images":[{"id":1.5}]}"#, "images[0].id"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(GroundTruth::read(Path::new("/no/such.json")).unwrap_err().to_string().contains("/no/such.json"));
    }
}
