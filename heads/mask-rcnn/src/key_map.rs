//! Keys of mmdetection's state_dict for paths in our modules.

/// The official key of the parameter at `path` in a [`MaskRcnn`](crate::MaskRcnn) on a backbone of the zoo. Keys behind the backbone equal
/// the paths.
///
/// ```
/// assert_eq!(mask_rcnn::official_key("backbone.outnorm.0.weight"), "backbone.outnorm0.weight");
/// assert_eq!(mask_rcnn::official_key("neck.fpn_convs.3.conv.bias"), "neck.fpn_convs.3.conv.bias");
/// ```
pub fn official_key(path: &str) -> String {
    match path.strip_prefix("backbone.") {
        Some(path) => format!("backbone.{}", vmamba::zoo::key(path)),
        None => path.to_owned(),
    }
}
