//! Entra, IMDS, NMI and Key Vault on loopback.
