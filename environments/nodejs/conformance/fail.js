module.exports = async () => { throw new Error('this call fails'); };
