"""The notary: takes in what is to be logged, keeps the log, asks witnesses, gives out proofs."""
