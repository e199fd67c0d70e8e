//! Annotation files: read strictly. Every error names the file, the entry and the field.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use vmamba_types::{MaskError, Rle, Segmentation};

use crate::error::{AnnotationProblem, DataError};
use crate::files::write_whole;
use crate::ground_truth::{AnnotationEntry, CategoryEntry, GroundTruth, ImageEntry};

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

/// A flag that is written as 0 and 1 or as false and true.
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

/// The three forms of `segmentation` in a file.
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

/// Reads a JSON file; a syntax or type error names the field.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let file = std::fs::File::open(path).map_err(|reason| DataError::io(path, reason))?;
    let mut reader = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, file));
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let place = error.path().to_string();
        let error: serde_json::Error = error.into_inner();
        match error.io_error_kind() {
            Some(_) => DataError::io(path, error.into()),
            None => {
                DataError::annotation(path, if place == "." { String::new() } else { place }, AnnotationProblem::Json(error.to_string()))
            }
        }
    })
}

impl GroundTruth {
    /// Reads a COCO annotation file.
    ///
    /// Annotations that are merely useless, such as boxes without area, are read; [`CocoDataset`](super::CocoDataset) leaves them out.
    ///
    /// # Errors
    /// On the first problem, with the entry and the field.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let raw: RawFile = read_json(path)?;
        let list = |name| DataError::annotation(path, "", AnnotationProblem::NotCoco(name));
        let images = read_images(raw.images.ok_or_else(|| list("images"))?, path)?;
        let categories = read_categories(raw.categories.ok_or_else(|| list("categories"))?, path)?;

        let sizes: BTreeMap<i64, [usize; 2]> = images.iter().map(|image| (image.id, image.size)).collect();
        let category_ids: BTreeSet<i64> = categories.iter().map(|category| category.id).collect();
        let mut ids = BTreeSet::new();
        let mut annotations = Vec::new();
        for (index, annotation) in raw.annotations.ok_or_else(|| list("annotations"))?.into_iter().enumerate() {
            let place = annotation.id.map_or_else(|| format!("annotations[{index}]"), |id| format!("annotation {id}"));
            let entry = annotation.check(&sizes, &category_ids, &mut ids);
            annotations.push(entry.map_err(|problem| DataError::annotation(path, place, problem))?);
        }
        Ok(Self { images, categories, annotations })
    }

    /// Writes a COCO annotation file atomically. Polygons stay polygons, runs are compressed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
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
        write_whole(path, |file| writeln!(file, "{document}"))
    }
}

fn read_images(list: Vec<RawImage>, path: &Path) -> Result<Vec<ImageEntry>, DataError> {
    let mut ids = BTreeSet::new();
    let mut images = Vec::with_capacity(list.len());
    for (index, image) in list.into_iter().enumerate() {
        let place = || image.id.map_or_else(|| format!("images[{index}]"), |id| format!("image {id}"));
        let fail = |problem| DataError::annotation(path, place(), problem);
        let missing = |field| fail(AnnotationProblem::Missing(field));
        let id = image.id.ok_or_else(|| missing("id"))?;
        let size = [image.height.ok_or_else(|| missing("height"))?, image.width.ok_or_else(|| missing("width"))?];
        if size.contains(&0) {
            return Err(fail(AnnotationProblem::Size(size)));
        }
        if id < 0 {
            return Err(fail(AnnotationProblem::NegativeId(id)));
        }
        if !ids.insert(id) {
            return Err(DataError::annotation(path, format!("images[{index}]"), AnnotationProblem::DuplicateId(id)));
        }
        let file_name = image.file_name.clone().ok_or_else(|| missing("file_name"))?;
        images.push(ImageEntry { id, file_name, size });
    }
    Ok(images)
}

fn read_categories(list: Vec<RawCategory>, path: &Path) -> Result<Vec<CategoryEntry>, DataError> {
    let mut ids = BTreeSet::new();
    let mut categories = Vec::with_capacity(list.len());
    for (index, category) in list.into_iter().enumerate() {
        let fail = |problem| DataError::annotation(path, format!("categories[{index}]"), problem);
        let id = category.id.ok_or_else(|| fail(AnnotationProblem::Missing("id")))?;
        if id < 0 {
            return Err(fail(AnnotationProblem::NegativeId(id)));
        }
        if !ids.insert(id) {
            return Err(fail(AnnotationProblem::DuplicateId(id)));
        }
        let name = category.name.ok_or_else(|| fail(AnnotationProblem::Missing("name")))?;
        categories.push(CategoryEntry { id, name });
    }
    Ok(categories)
}

impl RawAnnotation {
    fn check(
        self,
        sizes: &BTreeMap<i64, [usize; 2]>,
        categories: &BTreeSet<i64>,
        ids: &mut BTreeSet<i64>,
    ) -> Result<AnnotationEntry, AnnotationProblem> {
        let id = self.id.ok_or(AnnotationProblem::Missing("id"))?;
        if id < 0 {
            return Err(AnnotationProblem::NegativeId(id));
        }
        if !ids.insert(id) {
            return Err(AnnotationProblem::DuplicateId(id));
        }
        let image_id = self.image_id.ok_or(AnnotationProblem::Missing("image_id"))?;
        let size = *sizes.get(&image_id).ok_or(AnnotationProblem::UnknownImage(image_id))?;
        let category_id = self.category_id.ok_or(AnnotationProblem::Missing("category_id"))?;
        if !categories.contains(&category_id) {
            return Err(AnnotationProblem::UnknownCategory(category_id));
        }
        let bbox = to_box(&self.bbox.ok_or(AnnotationProblem::Missing("bbox"))?)?;
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
                    return Err(AnnotationProblem::Outside(size));
                }
            }
        }
        let area = match self.area {
            Some(area) if !area.is_finite() => return Err(AnnotationProblem::NotFinite("area")),
            Some(area) => area,
            // pycocotools' area for a mask; the box otherwise.
            None => match &segmentation {
                Some(segmentation) => segmentation.to_rle(size)?.area() as f64,
                None => bbox[2] * bbox[3],
            },
        };
        Ok(AnnotationEntry { id, image_id, category_id, bbox, area, crowd: self.iscrowd.0, segmentation })
    }
}

/// Converts `bbox`: four finite numbers.
pub(super) fn to_box(numbers: &[f64]) -> Result<[f64; 4], AnnotationProblem> {
    let bbox = <[f64; 4]>::try_from(numbers).map_err(|_| AnnotationProblem::Box(numbers.len()))?;
    if bbox.iter().all(|value| value.is_finite()) { Ok(bbox) } else { Err(AnnotationProblem::NotFinite("bbox")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GroundTruth, DataError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        GroundTruth::read(file.path())
    }

    const HEAD: &str =
        r#"{"images":[{"id":7,"file_name":"a.jpg","height":20,"width":30}],"categories":[{"id":3,"name":"cat"}],"annotations":["#;

    fn annotation(text: &str) -> Result<GroundTruth, DataError> {
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
    fn an_error_names_the_entry_and_the_field() {
        let with = |fields: &str| annotation(&format!(r#"{{"id":1,{fields}}}"#)).unwrap_err();
        let common = r#""image_id":7,"category_id":3,"bbox":[1,2,8,9]"#;
        for (fields, part) in [
            (r#""image_id":7,"bbox":[1,2,8,9]"#.to_owned(), "annotation 1: `category_id` is missing"),
            (r#""category_id":3,"bbox":[1,2,8,9]"#.to_owned(), "annotation 1: `image_id` is missing"),
            (r#""image_id":8,"category_id":3,"bbox":[1,2,8,9]"#.to_owned(), "annotation 1: image_id 8 is not among the images"),
            (r#""image_id":7,"category_id":9,"bbox":[1,2,8,9]"#.to_owned(), "category_id 9 is not among the categories"),
            (r#""image_id":7,"category_id":3,"bbox":[1,2,8]"#.to_owned(), "`bbox` has 3 numbers"),
            (r#""image_id":7,"category_id":3"#.to_owned(), "`bbox` is missing"),
            (format!(r#"{common},"segmentation":[[1,2,3]]"#), "polygon 0 has 3 numbers"),
            (format!(r#"{common},"segmentation":[[1,2,3,4,5,6,7]]"#), "polygon 0 has 7 numbers"),
            (format!(r#"{common},"segmentation":[[40,2,50,4,45,6]]"#), "outside the image of 30x20"),
            (format!(r#"{common},"segmentation":{{"size":[20,30],"counts":[0,599]}}"#), "599 pixels"),
            (format!(r#"{common},"segmentation":{{"size":[20,31],"counts":[0,620]}}"#), "expected 30x20"),
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
            ("{}", "the list `images` is missing"),
            (r#"{"images":[],"annotations":[]}"#, "the list `categories` is missing"),
            (r#"{"images":[{"id":1,"height":2,"width":2}],"annotations":[],"categories":[]}"#, "image 1: `file_name` is missing"),
            (r#"{"images":[{"id":1,"file_name":"a","height":0,"width":2}],"annotations":[],"categories":[]}"#, "the image is 2x0"),
            (r#"{"images":[{"id":1.5}]}"#, "images[0].id: "),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(GroundTruth::read(Path::new("/no/such.json")).unwrap_err().to_string().contains("/no/such.json"));
        // Opening a folder works, reading it does not: a problem of the file system, not of the JSON.
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(GroundTruth::read(folder.path()), Err(DataError::Io { .. })));
    }
}
