//! The live mount that all deliveries share: which names exist, which generation is current.
