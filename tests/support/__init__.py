"""What tests of several services share: real parts, and waiting with a bound."""
