//! What the processor can do.

use raw_cpuid::CpuId;
use spin::Once;

/// What the processor can do, of what we use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// Pages of 1 GiB.
    pub huge_pages: bool,
    /// The local APIC by machine-specific registers.
    pub x2apic: bool,
    /// The local APIC's timer counts to a value of the time-stamp counter.
    pub tsc_deadline: bool,
    /// Random numbers from a conditioned generator.
    pub rdrand: bool,
    /// Random numbers from the source itself.
    pub rdseed: bool,
    /// Ticks of the time-stamp counter per second, where the processor or the hypervisor says so.
    pub tsc_hz: Option<u64>,
}

static FEATURES: Once<Features> = Once::new();

/// What the processor can do.
pub fn features() -> Features {
    *FEATURES.call_once(detect)
}

fn detect() -> Features {
    let cpuid = CpuId::new();
    let basic = cpuid.get_feature_info();
    let has = |test: fn(&raw_cpuid::FeatureInfo) -> bool| basic.as_ref().is_some_and(test);
    let extended = cpuid.get_extended_feature_info();
    let far = cpuid.get_extended_processor_and_feature_identifiers();
    // Leaf 0x15 (SDM volume 2A, CPUID), else the hypervisor's 0x40000010, which is in kHz.
    let nominal = cpuid.get_tsc_info().and_then(|tsc| tsc.tsc_frequency());
    let told = cpuid
        .get_hypervisor_info()
        .and_then(|hypervisor| hypervisor.tsc_frequency());
    Features {
        huge_pages: far.is_some_and(|far| far.has_1gib_pages()),
        x2apic: has(|info| info.has_x2apic()),
        tsc_deadline: has(|info| info.has_tsc_deadline()),
        rdrand: has(|info| info.has_rdrand()),
        rdseed: extended.is_some_and(|extended| extended.has_rdseed()),
        tsc_hz: nominal
            .or(told.map(|khz| u64::from(khz) * 1000))
            .filter(|&hz| hz > 1_000_000),
    }
}
