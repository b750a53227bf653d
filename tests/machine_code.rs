//! The rotation's machine code is what it was when it was last measured: what is added beside it must not change it.

#![cfg(feature = "cuda")]

const FLAT: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/flat.fatbin"));
const ROTATE: &[u8] = include_bytes!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/rotate.fatbin"));
/// The compiler whose code was measured, and FNV-1a over the fat binaries that it makes. Change it with the kernels, and measure.
const COMPILER: &str = "nvcc 13.0.88";
const DIGEST: u64 = 0xa8ee_de23_edd4_2bac;

#[test]
fn the_rotation_is_the_one_that_was_measured() {
    if env!("CONDENSED_ROPE_COMPILER") != COMPILER {
        return println!(
            "not compared: compiled by {}, measured by {COMPILER}",
            env!("CONDENSED_ROPE_COMPILER")
        );
    }
    let digest = FLAT.iter().chain(ROTATE).fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!(digest, DIGEST, "{digest:#x}");
}
