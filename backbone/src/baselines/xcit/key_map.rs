//! Keys of an XCiT's parameters.

use std::borrow::Cow;

use crate::checkpoint::{StateDict, StateTensor};
use crate::layers::deconv_pyramid_key;

/// The key in timm's `Xcit` (and, for `fpn1` and `fpn2`, in the official backbone of detectors) of the parameter at `path` in an
/// [`Xcit`](super::Xcit) or [`XcitClassifier`](super::XcitClassifier).
///
/// ```
/// use vmamba::baselines::xcit;
/// assert_eq!(xcit::key("trunk.patch_embed.proj.3.norm.weight"), "patch_embed.proj.6.1.weight");
/// assert_eq!(xcit::key("trunk.blocks.0.local_mp.bn.weight"), "blocks.0.local_mp.bn.weight");
/// ```
pub fn key(path: &str) -> String {
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    if let Some((number, parameter)) = path.strip_prefix("patch_embed.proj.").and_then(|rest| rest.split_once('.'))
        && let Ok(number) = number.parse::<usize>()
    {
        // In the reference, an activation follows each convolution in the sequence.
        let parameter = parameter.replacen("conv.", "0.", 1).replacen("norm.", "1.", 1);
        return format!("patch_embed.proj.{}.{parameter}", 2 * number);
    }
    deconv_pyramid_key(path).unwrap_or_else(|| path.to_owned())
}

/// The key in timm for a key of the official repository or of mmpretrain, whose prefix `backbone.` is removed. Other keys stay. Files of
/// official classifiers also need [`split_class_attention`].
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    const THEIRS: [(&str, &str); 2] = [("pos_embeder.", "pos_embed."), ("head.fc.", "head.")];
    let key = key.strip_prefix("backbone.").unwrap_or(key);
    let found = THEIRS.iter().find_map(|(theirs, ours)| key.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")));
    Some(found.map_or(Cow::Borrowed(key), Cow::Owned))
}

/// Splits query, key and value of the class attention into three layers (`cls_attn_blocks.0.attn.q.weight`, …). Official files have one layer
/// with the rows of all three (`cls_attn_blocks.0.attn.qkv.weight`). Other entries stay.
pub fn split_class_attention(mut state: StateDict) -> StateDict {
    let fused: Vec<String> =
        state.keys().filter(|key| key.contains("cls_attn_blocks.") && key.contains(".attn.qkv.")).map(str::to_owned).collect();
    for key in fused {
        // A tensor without three equal parts stays, and loading reports it as unexpected.
        let has_thirds = |tensor: &&StateTensor| !tensor.data.is_empty() && tensor.shape.first().is_some_and(|rows| rows.is_multiple_of(3));
        let Some(tensor) = state.get(&key).filter(has_thirds).cloned() else {
            continue;
        };
        state.remove(&key);
        let mut shape = tensor.shape;
        shape[0] /= 3;
        for (name, data) in ["q", "k", "v"].into_iter().zip(tensor.data.chunks(tensor.data.len() / 3)) {
            state.insert(key.replace(".qkv.", &format!(".{name}.")), StateTensor { shape: shape.clone(), data: data.to_vec() });
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_attention_is_split_only_where_it_has_three_equal_parts() {
        let split = |shape: [usize; 2]| {
            let mut state = StateDict::new();
            let tensor = StateTensor { shape: shape.to_vec(), data: vec![0.0; shape[0] * shape[1]] };
            state.insert("cls_attn_blocks.0.attn.qkv.weight", tensor);
            split_class_attention(state).keys().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(split([6, 2]), ["k", "q", "v"].map(|part| format!("cls_attn_blocks.0.attn.{part}.weight")));
        for shape in [[4, 2], [3, 0], [0, 2]] {
            assert_eq!(split(shape), ["cls_attn_blocks.0.attn.qkv.weight"], "{shape:?}");
        }
    }
}
