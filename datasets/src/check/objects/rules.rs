//! Kinds of problems with their severity, message and remedy, and the list of problems found so far.

use std::collections::BTreeMap;
use std::fmt;

use vmamba_types::MaskError;
use vmamba_types::words::sentence;

use super::super::{EXAMPLES, Finding, FindingKind, Severity};
use crate::error::AnnotationProblem;

/// A kind of problem. The message follows the number of cases, see [`sentence`].
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
    INVALID_FIELD = 0 Error InvalidField "[entry has|entries have] a field that is missing, doubled, or has no valid value"
        "correct the fields; training refuses the file";
    DUPLICATE_ID = 1 Error DuplicateId "[id occurs|ids occur] more than once" "give every image, category and annotation a unique id";
    UNKNOWN_IMAGE = 2 Error UnknownImage "[annotation has|annotations have] an image_id that is not in the list `images`"
        "remove the annotations, or add the images";
    UNKNOWN_CATEGORY = 3 Error UnknownCategory "[annotation has|annotations have] a category_id that is not in the list `categories`" "add the categories";
    BAD_BOX = 4 Error BadBox "[box is|boxes are] not four finite numbers" "write x, y, width, height in pixels";
    CORNERS = 5 Error CornerBoxes "[box looks|boxes look] like two corners (x0, y0, x1, y1) instead of x, y, width, height"
        "subtract the first corner from the second";
    BAD_POLYGON = 6 Error BadPolygon "[polygon has|polygons have] an odd number of coordinates, fewer than three points, or a coordinate that is not finite"
        "correct or remove the polygons; training refuses the file";
    BAD_RLE = 7 Error BadRle "run-length encoded [mask does|masks do] not cover [its|their] image" "encode the masks for the size of the image, [height, width]";
    UNKNOWN_FORM = 23 Error UnknownSegmentation "[annotation has|annotations have] a `segmentation` of an unknown form"
        "write polygons as [[x0, y0, x1, y1, …], …], or an object with `size` and `counts`";
    OUTSIDE_POLYGON = 8 Error PolygonOutside "[mask lies|masks lie] entirely outside [its|their] image" "check that the annotations belong to this image";
    MISSING_FILE = 9 Error MissingImageFile "image [file is|files are] missing" "check the folder of images and the field `file_name`";
    UNREADABLE = 10 Error UnreadableImage "[image|images] cannot be read" "replace the files";
    FILE_SIZE = 11 Error SizeMismatch "[image differs in size from its|images differ in size from their] annotations"
        "annotate the files as they are; photos rotated by EXIF and resized copies are common causes";
    INVALID_SAMPLE = 12 Error InvalidSample "[sample contradicts itself|samples contradict themselves] or the class list" "correct the data set; training stops at the first one";
    DEGENERATE = 13 Warning DegenerateBox "[box is narrower than a pixel or has|boxes are narrower than a pixel or have] no area"
        "remove the boxes: training leaves them out, but evaluation counts them as missed";
    NO_AREA = 24 Warning DegenerateBox "[annotation has|annotations have] an `area` of 0"
        "leave `area` out, or write the pixels of the mask: training leaves these annotations out, but evaluation counts them as missed";
    OUTSIDE_BOX = 14 Warning BoxOutsideImage "[box reaches|boxes reach] more than a pixel beyond [its|their] image"
        "nothing to do if this is intended: training clips the boxes";
    OUTSIDE_WHOLLY = 15 Error BoxOutsideImage "[box lies|boxes lie] entirely outside [its|their] image" "check that the annotations belong to this image";
    MASK_DIFFERS = 16 Warning BoxMaskMismatch "[box does not fit its mask|boxes do not fit their masks]" "recompute the boxes from the masks";
    NO_MASK = 17 Warning NoMask "[annotation has|annotations have] no mask" "add masks if a mask head is trained: it learns nothing from these objects";
    SIZE_ZERO = 18 Error SizeMismatch "[image has|images have] a height or width of 0" "write the height and width of the files";
    TINY_IMAGE = 19 Warning TinyImage "[image is|images are] smaller than 32 pixels on a side" "enlarge or remove the images; training leaves them out";
    SAME_CONTENT = 20 Warning DuplicateInSplit "[image has|images have] the same content as another" "keep one of each";
    UNUSED = 21 Warning ClassNeverPresent "[category has|categories have] no annotation"
        "add images or remove the categories: the model cannot learn them, and AP leaves them out";
    SAME_NAME = 22 Warning DuplicateClassName "category [name occurs|names occur] more than once"
        "rename or merge the categories; until then they are told apart by id";
    ROOT_CATEGORY = 25 Warning RootCategory "[category is|categories are] no class but the root that Roboflow puts before the classes"
        "set data.source.drop_root_category = true (check_data: --drop-root-category), or remove the category";
    OTHER_READING = 26 Error SizeMismatch "[photo has the size of its annotations only when its|photos have the size of their annotations only when their] EXIF orientation is read the other way"
        "annotations for stored pixels need data.source.ignore_exif = true (check_data: --ignore-exif), those for upright photos false";
    TURNED = 27 Warning TurnedPhoto "[photo is turned by half a circle, mirrored or square by its|photos are turned by half a circle, mirrored or square by their] EXIF orientation, which no size reveals"
        "compare some with their objects (--sheet); annotations for stored pixels need data.source.ignore_exif = true";
}

impl Rule {
    /// The kind of a problem for which training refuses a file.
    pub(super) fn of(problem: &AnnotationProblem) -> Self {
        use AnnotationProblem as Problem;
        match problem {
            Problem::DuplicateId(_) => DUPLICATE_ID,
            Problem::UnknownImage(_) => UNKNOWN_IMAGE,
            Problem::UnknownCategory(_) => UNKNOWN_CATEGORY,
            Problem::Box(_) | Problem::NotFinite("bbox") | Problem::Type { field: "bbox", .. } => BAD_BOX,
            Problem::Mask(MaskError::Polygon { .. } | MaskError::Coordinate { .. }) => BAD_POLYGON,
            Problem::Mask(_) => BAD_RLE,
            Problem::SegmentationForm(_) => UNKNOWN_FORM,
            Problem::Outside(_) => OUTSIDE_POLYGON,
            Problem::Size(_) => SIZE_ZERO,
            Problem::Entry(_)
            | Problem::DoubledKey(_)
            | Problem::Type { .. }
            | Problem::Missing(_)
            | Problem::Empty(_)
            | Problem::NegativeId(_)
            | Problem::NotFinite(_)
            | Problem::NotCoco(_)
            | Problem::NoObjects(_)
            | Problem::NoImages
            | Problem::NoRootCategory
            | Problem::Classes(_)
            | Problem::NoGeometry => INVALID_FIELD,
        }
    }
}

/// Problems by rule: how many there are, and the first.
#[derive(Default)]
pub(super) struct Problems(BTreeMap<usize, (Rule, usize, Vec<String>)>);

impl Problems {
    /// Adds a case; only the first ones are named.
    pub(super) fn add(&mut self, rule: Rule, example: impl fmt::Display) {
        let (_, count, examples) = self.0.entry(rule.order).or_insert_with(|| (rule, 0, Vec::new()));
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example.to_string());
        }
    }

    /// Adds `count` cases without a name.
    pub(super) fn add_many(&mut self, rule: Rule, count: usize) {
        if count > 0 {
            self.0.entry(rule.order).or_insert_with(|| (rule, 0, Vec::new())).1 += count;
        }
    }

    /// Replaces the cases of one rule.
    pub(super) fn set(&mut self, rule: Rule, count: usize, examples: Vec<String>) {
        self.0.insert(rule.order, (rule, count, examples));
    }

    pub(super) fn remove(&mut self, rule: Rule) {
        self.0.remove(&rule.order);
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        let finding = |(rule, count, examples): (Rule, usize, Vec<String>)| Finding {
            severity: rule.severity,
            kind: rule.kind,
            split: None,
            count,
            message: sentence(count, rule.message),
            remedy: rule.remedy.to_owned(),
            examples,
        };
        self.0.into_values().map(finding).collect()
    }
}
