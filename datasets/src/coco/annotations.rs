//! Annotation files: read strictly. Every error names the file, the entry and the field.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;
use vmamba_types::Segmentation;

use super::scan::{Seen, scan};
use crate::error::DataError;
use crate::files::write_whole;
use crate::ground_truth::GroundTruth;

impl GroundTruth {
    /// Reads a COCO annotation file. A file without annotations, as of a test set, is read too.
    ///
    /// Annotations that are merely useless, such as boxes without area, are read; [`CocoDataset`](super::CocoDataset) leaves them out.
    ///
    /// # Errors
    /// On the first problem, with the entry and the field.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let mut truth = Self::default();
        scan(path, |_, place, seen, problems| {
            if let Some(problem) = problems.into_iter().next() {
                return ControlFlow::Break(DataError::annotation(path, place.to_string(), problem));
            }
            match seen {
                Seen::Image(image) => truth.images.extend(image),
                Seen::Category(category) => truth.categories.extend(category),
                Seen::Annotation(annotation) => truth.annotations.extend(annotation.entry()),
            }
            ControlFlow::Continue(())
        })?;
        Ok(truth)
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
            "categories": self.categories.iter().map(|category| {
                let mut entry = json!({"id": category.id, "name": category.name});
                category.supercategory.iter().for_each(|group| entry["supercategory"] = json!(group));
                entry
            }).collect::<Vec<_>>(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground_truth::AnnotationEntry;

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
    fn whole_ids_are_read_as_floats_and_as_text() {
        let truth = read(
            r#"{"annotations":[{"id":"1","image_id":7.0,"category_id":"3","bbox":[1,2,8,9],"iscrowd":null,"area":null}],
                "images":[{"id":"7","file_name":"a.jpg","height":20.0,"width":30}],"categories":[{"id":3.0,"name":"cat"}]}"#,
        )
        .unwrap();
        let AnnotationEntry { id, image_id, category_id, area, crowd, .. } = truth.annotations[0].clone();
        assert_eq!((id, image_id, category_id, area, crowd), (1, 7, 3, 72.0, false));
        assert_eq!((truth.images[0].id, truth.images[0].size, truth.categories[0].id), (7, [20, 30], 3));
    }

    #[test]
    fn a_polygon_around_or_across_the_image_is_clipped() {
        for (polygon, area) in [("-2,-2,32,-2,32,22,-2,22", 600.0), ("-5,5,40,5,40,10,-5,10", 150.0)] {
            let truth = annotation(&format!(r#"{{"id":1,"image_id":7,"category_id":3,"bbox":[0,0,30,20],"segmentation":[[{polygon}]]}}"#));
            assert_eq!(truth.unwrap().annotations[0].area, area);
        }
    }

    #[test]
    fn a_test_set_without_annotations_is_read() {
        let truth = read(r#"{"images":[{"id":1,"file_name":"a","height":2,"width":2}],"categories":[{"id":1,"name":"a"}]}"#).unwrap();
        assert_eq!((truth.images.len(), truth.annotations.len()), (1, 0));
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
            (format!(r#"{common},"segmentation":"x""#), "annotation 1: `segmentation` is the text \"x\""),
            (format!(r#"{common},"iscrowd":"0""#), "annotation 1: `iscrowd` is the text \"0\"; expected 0 or 1"),
            (format!(r#"{common},"area":"306""#), "annotation 1: `area` is the text \"306\"; expected a number"),
            (format!(r#"{common},"iscrowd":0,"iscrowd":1"#), "annotation 1: the key `iscrowd` occurs twice"),
            (format!(r#"{common},"area":NaN"#), "annotations[0].area: `NaN` at line 1"),
            (format!(r#"{common},"area":-Infinity"#), "annotations[0].area: `-Infinity` at line 1"),
            (r#""image_id":1.5,"category_id":3,"bbox":[1,2,8,9]"#.to_owned(), "`image_id` is the number 1.5; expected a whole number"),
            (
                r#""image_id":7,"category_id":3,"bbox":[1,"2",8,9]"#.to_owned(),
                "`bbox` is a list with the text \"2\" at place 1; expected four",
            ),
        ] {
            let error = with(&fields).to_string();
            assert!(error.contains(part), "{error}");
        }
        let twice = r#"{"id":1,"image_id":7,"category_id":3,"bbox":[1,2,8,9]}"#;
        assert!(annotation(&format!("{twice},{twice}")).unwrap_err().to_string().contains("id 1 occurs twice"));
        for (text, part) in [
            ("[1,2]", "expected an object with COCO's lists `images`, `annotations` and `categories`, found a list"),
            ("", "it is empty"),
            ("{\"images\":[", "it ends in the middle of the document (line 1, column 11)"),
            (r#"{"images":7}"#, "images: expected a list of objects, found the number 7"),
            (r#"{"images":[],"images":[]}"#, "the key `images` occurs twice"),
            (r#"{"images":[],"categories":[]} {}"#, "more text follows (`{}`)"),
            (r#"{"images":[7]}"#, "images[0]: the entry is the number 7; expected an object"),
            ("{}", "the list `images` is missing"),
            (r#"{"images":[],"annotations":[]}"#, "the list `categories` is missing"),
            (r#"{"images":[{"id":1,"height":2,"width":2}],"annotations":[],"categories":[]}"#, "image 1: `file_name` is missing"),
            (r#"{"images":[{"id":1,"file_name":"a","height":0,"width":2}],"annotations":[],"categories":[]}"#, "the image is 2x0"),
            (r#"{"images":[{"id":1,"file_name":"","height":2,"width":2}],"categories":[]}"#, "image 1: `file_name` is empty"),
            (r#"{"images":[{"id":-1,"file_name":"a","height":2,"width":2}],"categories":[]}"#, "image -1: id -1 is negative"),
            (r#"{"images":[{"id":1,"file_name":7,"height":2,"width":2}],"categories":[]}"#, "image 1: `file_name` is the number 7"),
            (r#"{"images":[{"id":1,"file_name":"a","height":-2,"width":2}],"categories":[]}"#, "image 1: `height` is the number -2"),
            (r#"{"images":[{"id":1.5}]}"#, "images[0]: `id` is the number 1.5; expected a whole number"),
            (r#"{"images":[],"categories":[{"id":1,"name":""}]}"#, "category 1: `name` is empty"),
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
