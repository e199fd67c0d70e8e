//! An annotation file, entry by entry, with what is wrong with each: what training reads and what the check of a data set reads.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use super::entry::RawEntry;
use super::judge::{Judge, Judged};
use super::stream::{Found, List, stream_lists};
use crate::error::{AnnotationProblem, DataError};
use crate::ground_truth::{CategoryEntry, ImageEntry};

/// An entry of an annotation file; `None` where it cannot be told from the others.
pub(crate) enum Seen {
    Image(Option<ImageEntry>),
    Category(Option<CategoryEntry>),
    Annotation(Judged),
}

/// The place of an entry, such as `annotation 17`, or `annotations[3]` for an entry without a readable id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(super) list: List,
    pub(super) index: usize,
    pub(super) id: Option<i64>,
}

impl Place {
    pub(super) fn of(list: List, index: usize, entry: &RawEntry) -> Self {
        Self { list, index, id: entry.id.whole() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.list, self.id) {
            (List::Images, Some(id)) => write!(f, "image {id}"),
            (List::Annotations, Some(id)) => write!(f, "annotation {id}"),
            (List::Categories, Some(id)) => write!(f, "category {id}"),
            (List::Other, _) => write!(f, "result {}", self.index),
            (list, None) => write!(f, "{}[{}]", list.name(), self.index),
        }
    }
}

/// Reads an annotation file: images and categories in any order, then annotations. `take` gets every entry with its problems.
///
/// A file that has annotations before images or categories, as COCO's own, is read twice. Memory holds one annotation at a time.
///
/// # Errors
/// When the file cannot be read, is not valid JSON, or has no images or categories, and what `take` breaks with. A file without annotations
/// is no error here: test sets have none.
pub(crate) fn scan(
    path: &Path,
    mut take: impl FnMut(&Judge, Place, Seen, Vec<AnnotationProblem>) -> ControlFlow<DataError>,
) -> Result<(), DataError> {
    let mut judge = Judge::default();
    let mut one = |list: List, index: usize, entry: RawEntry| {
        let (place, mut problems) = (Place::of(list, index, &entry), Vec::new());
        let seen = match list {
            List::Images => Seen::Image(judge.image(entry, &mut problems)),
            List::Categories => Seen::Category(judge.category(entry, &mut problems)),
            List::Annotations | List::Other => Seen::Annotation(judge.annotation(entry, &mut problems)),
        };
        take(&judge, place, seen, problems)
    };
    // In the order of `List::ALL`: images, annotations, categories.
    let first =
        |list, [images, _, categories]: [Found; 3]| list != List::Annotations || (images == Found::Read && categories == Found::Read);
    let [images, annotations, categories] = stream_lists(path, first, &mut one)?;
    for (found, list) in [(images, List::Images), (categories, List::Categories)] {
        if found == Found::Nowhere {
            return Err(DataError::annotation(path, "", AnnotationProblem::NotCoco(list.name())));
        }
    }
    if annotations == Found::Skipped {
        stream_lists(path, |list, _| list == List::Annotations, &mut one)?;
    }
    Ok(())
}
