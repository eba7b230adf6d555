namespace sas::cuda {}
