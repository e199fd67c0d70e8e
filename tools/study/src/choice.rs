//! Enums that a user chooses by name.

/// Implements `FromStr` and `Display` for an enum with `ALL` and `name`. The error of `FromStr` lists the possible names.
macro_rules! chosen_by_name {
    ($choice:ty, $noun:literal) => {
        impl std::fmt::Display for $choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $choice {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.into_iter().find(|choice| choice.name() == text);
                found.ok_or_else(|| format!("unknown {} `{text}`; possible are {}", $noun, Self::ALL.map(Self::name).join(", ")))
            }
        }
    };
}

pub(crate) use chosen_by_name;
