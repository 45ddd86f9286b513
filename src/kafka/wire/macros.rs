//! The declaration of messages.

/// Declares messages and the structures in them. A field says in which versions it is there:
///
/// ```text
/// messages! {
///     /// What it is.
///     pub(crate) struct ExampleRequest (0..=9, flexible 5) {
///         name: Text [0..],
///         parts: Option<Vec<Part>> [1..] null 2,
///         timeout_ms: i32 [0..=7] = 1000,
///         rack: Option<Text> [6..] tag 0,
///     }
///
///     pub(crate) struct Part { index: i32 [0..] }
/// }
/// ```
///
/// The numbers in parentheses, for whole messages only: its versions, and the first flexible one. `null 2`: an
/// [`Option`] that must not be null before version 2. `tag 0`: a tagged field, written only if it is not the default.
/// After `=` stands the value of a field in versions that do not have it; without it that is [`Default`].
macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        pub(crate) struct $name:ident $( ($versions:expr, flexible $flexible:literal) )? {
            $(
                $(#[$field_meta:meta])*
                $field:ident : $type:ty [$in:expr] $(null $null:literal)? $(tag $tag:literal)? $(= $default:expr)?
            ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name {
            $( $(#[$field_meta])* pub(crate) $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $crate::kafka::wire::plain!(@default $($default)?), )* }
            }
        }

        impl $crate::kafka::wire::Field for $name {
            fn read(
                reader: &mut $crate::kafka::wire::Reader,
                version: $crate::kafka::wire::Version,
            ) -> Result<Self, $crate::kafka::wire::Malformed> {
                let mut message = Self::default();
                $($crate::kafka::wire::plain!(@unless [$($tag)?] {
                    if ($in).contains(&version.number) {
                        message.$field = $crate::kafka::wire::Field::read(reader, version)?;
                        $(if version.number < $null && message.$field.is_none() {
                            return Err($crate::kafka::wire::Malformed("null in a version that has none there"));
                        })?
                    }
                });)*
                if version.is_flexible {
                    reader.tags(|_reader, tag| match tag {
                        $($($tag if ($in).contains(&version.number) => {
                            message.$field = $crate::kafka::wire::Field::read(_reader, version)?;
                            Ok(true)
                        })?)*
                        _ => Ok(false),
                    })?;
                }
                Ok(message)
            }

            fn write(&self, writer: &mut $crate::kafka::wire::Writer, version: $crate::kafka::wire::Version) {
                $($crate::kafka::wire::plain!(@unless [$($tag)?] {
                    if ($in).contains(&version.number) {
                        $crate::kafka::wire::put!(writer, version, self.$field $(, null $null)?);
                    }
                });)*
                if version.is_flexible {
                    let tags: &[bool] = &[
                        $($($tag < u32::MAX && ($in).contains(&version.number) && self.$field != Self::default().$field,)?)*
                    ];
                    writer.varint(tags.iter().filter(|is_there| **is_there).count() as u32);
                    $($(if ($in).contains(&version.number) && self.$field != Self::default().$field {
                        writer.tagged($tag, |writer| $crate::kafka::wire::Field::write(&self.$field, writer, version));
                    })?)*
                }
            }

            #[cfg(test)]
            fn sample(
                sampler: &mut $crate::kafka::wire::sample::Sampler,
                version: $crate::kafka::wire::Version,
            ) -> Self {
                let mut message = Self::default();
                $(if ($in).contains(&version.number) {
                    message.$field = $crate::kafka::wire::Field::sample(sampler, version);
                    $(if version.number < $null && message.$field.is_none() {
                        message.$field = $crate::kafka::wire::present(&message.$field);
                    })?
                })*
                message
            }
        }

        impl $crate::kafka::wire::Nullable for $name {
            fn read_nullable(
                reader: &mut $crate::kafka::wire::Reader,
                version: $crate::kafka::wire::Version,
            ) -> Result<Option<Self>, $crate::kafka::wire::Malformed> {
                match reader.i8()? {
                    0.. => $crate::kafka::wire::Field::read(reader, version).map(Some),
                    _ => Ok(None),
                }
            }

            fn write_nullable(
                value: Option<&Self>,
                writer: &mut $crate::kafka::wire::Writer,
                version: $crate::kafka::wire::Version,
            ) {
                writer.i8(if value.is_some() { 1 } else { -1 });
                if let Some(value) = value {
                    $crate::kafka::wire::Field::write(value, writer, version);
                }
            }
        }

        $(impl $crate::kafka::wire::Message for $name {
            const VERSIONS: std::ops::RangeInclusive<i16> = $versions;
            const FLEXIBLE: i16 = $flexible;
        })?
    )*};
}

/// Parts of [`messages!`] that depend on whether something is given.
macro_rules! plain {
    (@default) => {
        Default::default()
    };
    (@default $default:expr) => {
        $default
    };
    (@unless [] $code:block) => {
        $code
    };
    (@unless [$tag:literal] $code:block) => {};
}

/// Writes a field; null as the default in versions that have no null.
macro_rules! put {
    ($writer:ident, $version:ident, $field:expr) => {
        $crate::kafka::wire::Field::write(&$field, $writer, $version)
    };
    ($writer:ident, $version:ident, $field:expr, null $null:literal) => {
        if $version.number < $null && $field.is_none() {
            $crate::kafka::wire::Field::write(&$crate::kafka::wire::present(&$field), $writer, $version)
        } else {
            $crate::kafka::wire::Field::write(&$field, $writer, $version)
        }
    };
}

pub(crate) use {messages, plain, put};
