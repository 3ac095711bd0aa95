//! FENCE: views of byte slices as slices of plain values, and back.
//!
//! Promise: a view is made only when length and alignment fit, and only between types for which every
//! pattern of bytes is a value and which have no padding; so no view can make an invalid value.
#![allow(unsafe_code)]

use super::blocks::{
    BlockIq1M, BlockIq1S, BlockIq2S, BlockIq2Xs, BlockIq2Xxs, BlockIq3S, BlockIq3Xxs, BlockIq4Nl,
    BlockIq4Xs, BlockMxfp4, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0,
    BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use super::rounding::BlockFp8;
use super::wide::Act512;

mod sealed {
    pub trait Sealed {}
}

/// A type that is nothing but its bytes.
///
/// # Safety
///
/// Every pattern of `size_of::<Self>()` bytes is a value, the type has no padding, no interior
/// mutability and a size above zero.
pub unsafe trait Plain: Copy + sealed::Sealed {}

macro_rules! plain {
    ($($t:ty),* $(,)?) => {$(
        impl sealed::Sealed for $t {}
        // SAFETY: a primitive number, or a `repr(C)` struct of bytes or of fields that fill it without
        // padding (its size is asserted beside its definition); any bytes are a value.
        unsafe impl Plain for $t {}
    )*};
}

plain!(u8, i8, u16, i16, u32, i32, f32);
plain!(BlockQ8_0, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1);
plain!(BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K);
plain!(BlockIq1S, BlockIq1M, BlockIq2Xxs, BlockIq2Xs, BlockIq2S);
plain!(BlockIq3Xxs, BlockIq3S, BlockIq4Nl, BlockIq4Xs);
plain!(BlockMxfp4, BlockFp8);
plain!(Act512);

/// The value whose bytes are all 0.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: any bytes are a valid `T`.
    unsafe { std::mem::zeroed() }
}

/// `bytes` as values; `None` when the length is no multiple of the size or the start is not aligned.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    if !fits::<T>(bytes) {
        return None;
    }
    // SAFETY: `fits` checked alignment and length, any bytes are valid `T` (`Plain`), and the result
    // borrows `bytes`, so the memory lives and stays unchanged as long as the view.
    Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
}

/// `bytes` as values that can be written; `None` as for [`from_bytes`].
pub fn from_bytes_mut<T: Plain>(bytes: &mut [u8]) -> Option<&mut [T]> {
    if !fits::<T>(bytes) {
        return None;
    }
    let n = bytes.len() / size_of::<T>();
    // SAFETY: as in `from_bytes`; the view holds the only borrow of `bytes`, and whatever is written
    // through it leaves initialised bytes, since `T` has no padding.
    Some(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), n) })
}

/// The bytes of `values`, in the byte order of the machine.
pub fn to_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `T` has no padding, so all bytes are initialised; `u8` has alignment 1; the result
    // borrows `values`.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `values`, to be written.
pub fn to_bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `to_bytes`; any bytes written are valid `T`, and this is the only borrow.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

fn fits<T>(bytes: &[u8]) -> bool {
    bytes.len().is_multiple_of(size_of::<T>()) && bytes.as_ptr().cast::<T>().is_aligned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_wrong_length_and_alignment() {
        let words = [0x0403_0201_u32, 0x0807_0605];
        let bytes = to_bytes(&words);
        assert_eq!(from_bytes::<u32>(bytes), Some(&words[..]));
        assert_eq!(from_bytes::<u32>(&bytes[..7]), None);
        assert_eq!(from_bytes::<u32>(&bytes[1..5]), None);
        assert_eq!(from_bytes::<u16>(&bytes[2..6]).map(<[u16]>::len), Some(2));
        assert_eq!(from_bytes::<f32>(&bytes[..0]).map(<[f32]>::len), Some(0));
        assert_eq!(
            from_bytes::<BlockMxfp4>(&[7; 34][..]).map(<[_]>::len),
            Some(2)
        );
    }

    #[test]
    fn writes_go_through() {
        let mut words = [0_u32; 2];
        from_bytes_mut::<u16>(to_bytes_mut(&mut words)).unwrap()[1] = 0xffff;
        assert_eq!(words, [0xffff_0000, 0]);
        assert!(from_bytes_mut::<u16>(&mut to_bytes_mut(&mut words)[1..3]).is_none());
    }
}
