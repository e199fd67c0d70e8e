//! The errors of an evaluation.

use vmamba_types::MaskError;

use crate::ground_truth::WithoutMasks;

/// Why results cannot be evaluated. Results are counted from 0 in the order of the list.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// A result belongs to no image of the ground truth.
    #[error("result {result}: image_id {image_id} is not among the images of the ground truth")]
    UnknownImage {
        /// Index of the result.
        result: usize,
        /// Its image id.
        image_id: i64,
    },
    /// A result belongs to no category of the ground truth.
    #[error("result {result}: category_id {category_id} is not among the categories of the ground truth")]
    UnknownCategory {
        /// Index of the result.
        result: usize,
        /// Its category id.
        category_id: i64,
    },
    /// A detection has a class index beyond the categories of the ground truth.
    #[error("result {result}: class index {class} is outside the {classes} categories of the ground truth")]
    UnknownClass {
        /// Index of the result.
        result: usize,
        /// Its class index.
        class: usize,
        /// Number of categories.
        classes: usize,
    },
    /// A score is NaN or infinite.
    #[error("result {result}: the score is not a finite number")]
    Score {
        /// Index of the result.
        result: usize,
    },
    /// A result lacks the box or the mask that is compared.
    #[error("result {result}: `{field}` is missing")]
    Missing {
        /// Index of the result.
        result: usize,
        /// `bbox` or `segmentation`.
        field: &'static str,
    },
    /// An annotation of the ground truth belongs to no image.
    #[error("annotation {annotation} of the ground truth: image_id {image_id} is not among its images")]
    UnknownAnnotationImage {
        /// Id of the annotation.
        annotation: i64,
        /// Its image id.
        image_id: i64,
    },
    /// Masks are compared, but annotations have none.
    #[error("{0}, so that masks cannot be compared")]
    NoMasks(WithoutMasks),
    /// A mask of the ground truth is invalid.
    #[error("annotation {annotation} of the ground truth: `segmentation`: {problem}")]
    Mask {
        /// Id of the annotation.
        annotation: i64,
        /// What is wrong.
        problem: MaskError,
    },
    /// An id is below 0.
    #[error("id {0} is negative; the ids of images and categories must be at least 0")]
    NegativeId(i64),
    /// The evaluation itself failed.
    #[error("the evaluation failed: {0}")]
    Engine(String),
}
