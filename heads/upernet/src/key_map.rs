//! Keys of mmsegmentation's state_dict for paths in our modules.

/// The official key of the parameter at `path` in an [`UperNet`](crate::UperNet) on a backbone of the zoo.
///
/// ```
/// assert_eq!(upernet::official_key("backbone.outnorm.0.weight"), "backbone.outnorm0.weight");
/// assert_eq!(upernet::official_key("decode_head.psp_modules.branches.3.bn.bias"), "decode_head.psp_modules.3.1.bn.bias");
/// ```
pub fn official_key(path: &str) -> String {
    if let Some(path) = path.strip_prefix("backbone.") {
        return format!("backbone.{}", vmamba::zoo::key(path));
    }
    // In mmsegmentation a pooling branch is a sequence of the pool (0) and the convolution (1).
    if let Some((head, (branch, rest))) =
        path.split_once("psp_modules.branches.").and_then(|(head, rest)| Some((head, rest.split_once('.')?)))
    {
        return format!("{head}psp_modules.{branch}.1.{rest}");
    }
    path.to_owned()
}
