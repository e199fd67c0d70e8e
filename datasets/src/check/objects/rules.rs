//! Kinds of problems with their severity, message and remedy, and the list of problems found so far.

use std::collections::BTreeMap;

use super::super::{EXAMPLES, Finding, FindingKind, Severity};

/// A kind of problem. The message follows the number of cases.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    order: usize,
    severity: Severity,
    kind: FindingKind,
    message: &'static str,
    remedy: &'static str,
}

macro_rules! rules {
    ($($name:ident = $order:literal $severity:ident $kind:ident $message:literal $remedy:literal;)+) => {
        $(pub(super) const $name: Rule =
            Rule { order: $order, severity: Severity::$severity, kind: FindingKind::$kind, message: $message, remedy: $remedy };)+
    };
}

rules! {
    MISSING_FIELD = 0 Error MissingField "entries lack a field or have one of the wrong type" "add the field; training refuses the file";
    DUPLICATE_ID = 1 Error DuplicateId "ids occur more than once" "give every image, category and annotation an id of its own";
    UNKNOWN_IMAGE = 2 Error UnknownImage "annotations have an image_id that is not in the list `images`"
        "remove the annotations, or add the images";
    UNKNOWN_CATEGORY = 3 Error UnknownCategory "annotations have a category_id that is not in the list `categories`" "add the categories";
    BAD_BOX = 4 Error BadBox "boxes are not four finite numbers" "write x, y, width, height in pixels";
    CORNERS = 5 Error CornerBoxes "boxes look like two corners (x0, y0, x1, y1) instead of x, y, width, height"
        "subtract the first corner from the second";
    BAD_POLYGON = 6 Error BadPolygon "polygons have an odd number of coordinates, fewer than three points, or a coordinate that is not finite"
        "correct or remove the polygons; training refuses the file";
    BAD_RLE = 7 Error BadRle "run-length encoded masks do not cover their image" "encode the masks for the size of the image, [height, width]";
    OUTSIDE_POLYGON = 8 Error PolygonOutside "masks lie entirely outside their image" "check that the annotations belong to this image";
    MISSING_FILE = 9 Error MissingImageFile "image files are missing" "check the folder of images and the field `file_name`";
    UNREADABLE = 10 Error UnreadableImage "images cannot be read" "replace the files";
    FILE_SIZE = 11 Error SizeMismatch "images differ in size from their annotations"
        "annotate the files as they are; photos rotated by EXIF and resized copies are common causes";
    INVALID_SAMPLE = 12 Error InvalidSample "samples contradict themselves or the class list" "correct the data set; training stops at the first one";
    DEGENERATE = 13 Warning DegenerateBox "boxes are narrower than a pixel or have no area"
        "remove the boxes: training leaves them out, but evaluation counts them as missed";
    OUTSIDE_BOX = 14 Warning BoxOutsideImage "boxes reach more than a pixel beyond their image"
        "nothing to do if this is intended: training clips the boxes";
    OUTSIDE_WHOLLY = 15 Error BoxOutsideImage "boxes lie entirely outside their image" "check that the annotations belong to this image";
    MASK_DIFFERS = 16 Warning BoxMaskMismatch "boxes do not fit their masks" "recompute the boxes from the masks";
    NO_MASK = 17 Warning NoMask "annotations have no mask" "add masks if a mask head is trained: it learns nothing from these objects";
    SIZE_ZERO = 18 Error SizeMismatch "images have a height or width of 0" "write the height and width of the files";
    TINY_IMAGE = 19 Warning TinyImage "images are smaller than 32 pixels on a side" "enlarge or remove the images; training leaves them out";
    SAME_CONTENT = 20 Warning DuplicateInSplit "images have the same content as another" "keep one of each";
    UNUSED = 21 Warning ClassNeverPresent "categories have no annotation"
        "add images or remove the categories: the model cannot learn them, and AP leaves them out";
    SAME_NAME = 22 Warning DuplicateClassName "category names occur more than once" "rename or merge the categories";
}

/// Problems by rule, each with its cases.
#[derive(Default)]
pub(super) struct Problems(BTreeMap<usize, (Rule, Vec<String>)>);

impl Problems {
    pub(super) fn add(&mut self, rule: Rule, example: impl Into<String>) {
        self.0.entry(rule.order).or_insert_with(|| (rule, Vec::new())).1.push(example.into());
    }

    pub(super) fn remove(&mut self, rule: Rule) {
        self.0.remove(&rule.order);
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        let finding = |(rule, examples): (Rule, Vec<String>)| Finding {
            severity: rule.severity,
            kind: rule.kind,
            split: None,
            count: examples.len(),
            message: format!("{} {}", examples.len(), rule.message),
            remedy: rule.remedy.to_owned(),
            examples: examples.into_iter().take(EXAMPLES).collect(),
        };
        self.0.into_values().map(finding).collect()
    }
}
