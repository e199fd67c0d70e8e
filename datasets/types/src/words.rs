//! Numbers of things in messages.

/// A number with its noun, and a verb where the sentence has one: `counted(1, "image has", "images have")` is "1 image has".
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A sentence about a number of things. Where it has `[one|many]`, the number decides: `sentence(1, "[box is|boxes are] empty")` is
/// "1 box is empty".
pub fn sentence(count: usize, template: &str) -> String {
    let mut text = count.to_string() + " ";
    let mut rest = template;
    while let Some((before, (choice, after))) = rest.split_once('[').and_then(|(before, rest)| Some((before, rest.split_once(']')?))) {
        let (one, many) = choice.split_once('|').unwrap_or((choice, choice));
        text += before;
        text += if count == 1 { one } else { many };
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_singular_and_every_other_number_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "image", "images")), ["0 images", "1 image", "2 images"]);
        let told = |count| sentence(count, "[box reaches|boxes reach] beyond [its image|their images]");
        assert_eq!([1, 3].map(told), ["1 box reaches beyond its image", "3 boxes reach beyond their images"]);
        assert_eq!(sentence(2, "in all"), "2 in all");
    }
}
