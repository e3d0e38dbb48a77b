//! Enumerations that both sides know by number, and people by name.

/// Declares enumerations with the names of what is in them, in one list, so that none can be forgotten.
///
/// `as_str` is the value of a label, and what a configuration calls it.
macro_rules! numbered {
    ($(
        $(#[$of_all:meta])+
        $name:ident { $($(#[$of_one:meta])+ $variant:ident = $text:literal,)+ }
    )+) => { $(
        $(#[$of_all])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$of_one])+ $variant,)+ }

        impl $name {
            /// How many there are: the length of every array that is indexed by one.
            pub const COUNT: usize = [$(Self::$variant,)+].len();
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)+];

            /// The one with this number.
            #[inline(always)]
            #[must_use]
            pub const fn from_index(index: u8) -> Option<Self> {
                $(if index == Self::$variant as u8 { return Some(Self::$variant); })+
                None
            }

            /// Its place in arrays that are indexed by one.
            #[inline(always)]
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }

            /// Its name: the value of a label, and what a configuration calls it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Whether it is the one with this number.
            #[inline(always)]
            #[must_use]
            pub const fn is(self, number: u8) -> bool {
                self as u8 == number
            }
        }
    )+ };
}

pub(crate) use numbered;
