//! Tests that take a device.

/// Each test on the CPU, and on a GPU where candle was built for one.
macro_rules! on_devices {
    ($($name:ident),+ $(,)?) => {
        mod cpu {
            $(#[test] fn $name() -> candle_core::Result<()> { super::$name(&super::Device::Cpu) })+
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $(
                #[test]
                #[ignore = "needs a CUDA GPU"]
                fn $name() -> candle_core::Result<()> { super::$name(&super::Device::new_cuda(0)?) }
            )+
        }
    };
}
